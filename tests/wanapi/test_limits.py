"""wanapi/limits.py and wanapi/within.py: no wait takes all threads, and none lasts too long."""

import re
import threading
import time

import pytest

from local.parts import ROOT
from wanapi import limits
from wanapi.within import Threads


def test_the_docs_say_how_many_threads_a_web_process_has():
    [told] = re.findall(r"gunicorn processes, (\d+) threads each", (ROOT / "docs/settings.md").read_text())

    assert int(told) == limits.THREADS


@pytest.fixture
def threads():
    with Threads(1) as threads:
        yield threads


def test_within_gives_what_the_work_gives_or_raises(threads):
    assert threads.within(10, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        threads.within(10, lambda: 1 / 0)


def test_work_that_never_began_is_taken_back(threads):
    ended, calls = threading.Event(), []
    hanging = threads.begin(0.01, lambda: ended.wait(10))
    late = threads.begin(0.01, lambda: calls.append("late"))

    for result in (hanging, late):
        with pytest.raises(TimeoutError):
            result()
    ended.set()

    assert threads.within(10, lambda: "free again") == "free again"
    assert calls == []


def test_the_seconds_of_several_are_the_same_seconds():
    ended, began = threading.Event(), time.monotonic()
    with Threads(4) as threads:
        for result in [threads.begin(0.5, lambda: ended.wait(10)) for _ in range(4)]:
            with pytest.raises(TimeoutError):
                result()
        ended.set()

    assert time.monotonic() - began < 1.9
