"""What counts against a job: the table that operators read is the one that the code follows."""

import re

import pytest

from jobs.models import Event, Job
from jobs.queue import causes
from local.parts import ROOT
from tests.factories import make_job

NUMBERS = {2: "second", 3: "third", 5: "fifth"}


def line(cause):
    """As docs/architecture.md has it."""
    if cause.event == Event.Kind.FAILED:
        return f"| {cause.what} | - | fails the job |"
    anew = "yes" if cause.anew else "no"
    if cause.counter:
        row = " in a row" if cause.counter == "lapses" else ""
        return f"| {cause.what} | {anew} | the {NUMBERS[cause.limit]}{row} fails the job |"
    waits = "" if cause.pause is None else "; the job waits, longer each time"
    if cause.pause == 0:
        waits = "; at once the first time, then the job waits, longer each time"
    return f"| {cause.what} | {anew} | no{waits} |"


def test_the_docs_show_the_table_of_the_code():
    text = (ROOT / "docs" / "architecture.md").read_text()
    shown = text.partition("## What counts against a job")[2].partition("\n## ")[0]

    rows = re.findall(r"^\|(?! cause |---).*\|$", shown, re.MULTILINE)

    assert rows == [line(cause) for cause in causes.ALL]


def test_no_cause_is_missing_from_the_table():
    assert {each for each in vars(causes).values() if isinstance(each, causes.Cause)} == set(causes.ALL)


@pytest.mark.parametrize(
    "cause", [cause for cause in causes.ALL if cause.limit], ids=lambda cause: cause.what
)
def test_a_sentence_that_names_a_number_names_the_limit(cause):
    assert all(int(number) == cause.limit for number in re.findall(r"\d+", cause.error))


def test_the_pauses_grow_to_an_end():
    assert [causes.NOT_TAKEN.pause_after(times) for times in (0, 1, 2, 9, 9999)] == [5, 10, 20, 600, 600]
    assert [causes.PROMPT_LOST.pause_after(times) for times in (0, 1, 2, 3)] == [0, 1, 3, 7]


@pytest.mark.django_db
def test_what_counts_are_fields_of_a_job_that_a_requeue_clears():
    make_job()
    assert Job.objects.filter(**dict.fromkeys(causes.COUNTERS, 0)).exists()
    assert {cause.counter for cause in causes.ALL} - {""} <= set(causes.COUNTERS)
