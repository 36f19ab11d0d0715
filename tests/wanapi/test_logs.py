"""What the logs say, and how often."""

from wanapi.logs import Seldom


def test_a_line_that_comes_again_and_again_is_due_once_a_minute_and_another_one_at_once(monkeypatch):
    now = 0.0
    monkeypatch.setattr("wanapi.logs.monotonic", lambda: now)
    seldom = Seldom()

    assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [True, False, True]
    now = 59.0
    assert not seldom.due("b")
    now = 60.0
    assert seldom.due("b")
