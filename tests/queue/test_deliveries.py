"""Deliveries as rows: written with the event, claimed within bounds, switched off by a 410."""

import pytest
from django.db.models.functions import Now

from jobs.media.receivers import Answer
from jobs.models import ApiKey, Delivery, Event, Job, Receiver, SwitchedOff
from jobs.models.clock import seconds
from jobs.queue.change import change
from jobs.queue.deliveries import claim, send_again
from jobs.queue.returns import cancel
from tests.factories import make_job
from wanapi.sealed import seal

pytestmark = pytest.mark.django_db
TAKEN, GONE, BAD = Answer(200), Answer(410, "It answered with status 410."), Answer(500, "Bad.")


def key(name):
    return ApiKey.objects.get_or_create(name=name, defaults={"sha256": name})[0]


def event(host="a.example", owner="one", kind=Event.Kind.CANCELLED, **fields):
    """A job with a webhook, of which this is to be told."""
    every = ["job.started", "job.cancelled"]
    job = make_job(
        key=key(owner) if owner else None,
        webhook_url=seal(f"https://{host}/hook"),
        webhook_events=every,
        **fields,
    )
    change(Job.objects.filter(pk=job.pk), kind)
    return job


def hosts(tries):
    return sorted(one.delivery.host.partition(".")[0] for one in tries)


def test_it_is_written_with_the_event_or_not_at_all(monkeypatch):
    job = make_job(webhook_url=seal("https://a.example"), webhook_events=["job.cancelled"])
    monkeypatch.setattr("jobs.models.event.metric.add", lambda amounts: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        cancel(Job.objects.all())

    job.refresh_from_db()
    assert job.status == "queued"
    assert not Delivery.objects.exists()


def test_a_job_without_a_webhook_costs_nothing(django_assert_num_queries):
    job = make_job()
    from jobs.queue.deliveries import write

    with django_assert_num_queries(0):
        write([job], Event.Kind.CANCELLED)


class TestClaim:
    def test_two_per_host_and_four_per_key_at_once(self):
        for owner in ("one", "two"):
            for host in "aaabbbccc":
                event(f"{host}.example", owner)

        first, second = claim(100, 100), claim(100, 100)

        assert hosts(first) == ["a", "a", "b", "b", "c", "c"]
        assert len([one for one in first if one.delivery.key.name == "one"]) == 4
        assert second == []

    def test_the_environments_key_is_bounded_as_well(self):
        for host in "abcdef":
            event(f"{host}.example", owner=None)
        event("g.example", "one")

        assert hosts(claim(100, 100)) == ["a", "b", "c", "d", "g"]
        assert claim(100, 100) == []

    def test_a_place_is_free_when_a_try_ends(self):
        for _ in range(3):
            event()
        first, _ = claim(100, 100)
        first.finish(TAKEN, 0.1)

        assert len(claim(100, 100)) == 1

    def test_thousands_that_wait_for_one_host_hide_nobody(self, monkeypatch):
        monkeypatch.setattr("jobs.queue.deliveries.LOOKED_AT", 5)
        for _ in range(20):
            event("a.example")
        event("b.example")

        assert hosts(claim(100, 100)) == ["a", "a", "b"]

    def test_many_job_started_hide_it_neither(self, monkeypatch):
        monkeypatch.setattr("jobs.queue.deliveries.LOOKED_AT", 5)
        for _ in range(20):
            event(kind=Event.Kind.STARTED)
        event(kind=Event.Kind.CANCELLED)

        assert sorted(one.delivery.event for one in claim(100, 100)) == ["job.cancelled", "job.started"]

    def test_the_event_of_the_end_does_not_wait_for_job_started(self):
        for _ in range(3):
            event(kind=Event.Kind.STARTED)
        event(kind=Event.Kind.CANCELLED)

        assert sorted(one.delivery.event for one in claim(100, 100)) == ["job.cancelled", "job.started"]

    def test_hosts_that_fail_leave_room_for_the_others(self):
        for host in "abc":
            event(f"{host}.example")
        Receiver.objects.create(host="a.example:443"), Receiver.objects.create(host="b.example:443")

        assert hosts(claim(100, 1)) == ["a", "c"]
        assert hosts(claim(100, 1)) == ["b"]

    def test_many_that_fail_hide_nobody(self, monkeypatch):
        monkeypatch.setattr("jobs.queue.deliveries.LOOKED_AT", 2)
        for host in "abcd":
            event(f"{host}.example", owner=host)
            Receiver.objects.create(host=f"{host}.example:443")
        event("e.example")

        assert hosts(claim(100, 1)) == ["a", "e"]

    def test_those_that_are_not_due_wait(self):
        event()
        Delivery.objects.update(due_at=Now() + seconds(60))
        assert claim(100, 100) == []

    def test_one_whose_worker_died_is_claimed_again_and_the_dead_one_writes_nothing(self):
        event()
        [dead] = claim(1, 1)
        Delivery.objects.update(lease_until=Now() - seconds(1))

        [heir] = claim(1, 1)
        dead.finish(TAKEN, 0.1)
        assert Delivery.objects.get().state == "pending"
        heir.finish(TAKEN, 0.1)

        row = Delivery.objects.get()
        assert (row.state, row.tries) == ("delivered", 1)

    def test_workers_that_die_use_up_no_tries_and_let_the_others_go_first(self):
        event(owner="one")
        for _ in range(20):
            assert claim(1, 1)
            Delivery.objects.update(lease_until=Now() - seconds(1))
        event("b.example", owner="one")
        Delivery.objects.filter(host="b.example:443").update(due_at=Now() - seconds(60))

        assert hosts(claim(1, 1)) == ["b"]
        [heir] = claim(1, 1)
        heir.finish(BAD, 0.1)

        row = Delivery.objects.get(host="a.example:443")
        assert (row.state, row.tries) == ("pending", 1)


class TestGone:
    """The receiver answered 410."""

    @pytest.fixture
    def gone(self):
        for _ in range(2):
            event()
        [one, _] = claim(100, 100)
        one.finish(GONE, 0.1)

    def test_the_url_gets_nothing_more_of_this_key(self, gone):
        event()

        assert [row.state for row in Delivery.objects.all()] == ["off", "off"]
        assert claim(100, 100) == []

    def test_other_keys_and_other_urls_of_the_host_do(self, gone):
        event(owner="two"), event(owner=None)
        other = make_job(
            key=key("one"), webhook_url=seal("https://a.example/2"), webhook_events=["job.cancelled"]
        )
        cancel(Job.objects.filter(pk=other.pk))

        assert Delivery.objects.pending().count() == 3

    def test_send_again_switches_it_on(self, gone):
        assert send_again(Delivery.objects.all()) == 2

        event()
        assert Delivery.objects.pending().count() == 3
        assert not SwitchedOff.objects.exists()


class TestReceiver:
    def test_one_that_fails_is_noted_until_it_takes_something(self):
        event(), event()
        first, second = claim(2, 2)
        first.finish(BAD, 0.1)
        assert Receiver.objects.get().host == "a.example:443"

        second.finish(TAKEN, 0.1)
        assert not Receiver.objects.exists()

    def test_and_until_nothing_waits_for_it(self, monkeypatch):
        monkeypatch.setattr("jobs.queue.deliveries.PAUSES", ())
        event()
        [only] = claim(2, 2)
        only.finish(BAD, 0.1)

        assert Delivery.objects.get().state == "failed"
        assert not Receiver.objects.exists()
