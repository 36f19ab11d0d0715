"""How a worker's tick wakes its own cluster."""

import pytest
from django_q.brokers.orm import ORM
from django_q.signals import pre_execute
from django_q.signing import SignedPackage

from jobs.queue.wake import RENDER, TASKS, wake
from jobs.workers.broker import Broker

pytestmark = pytest.mark.django_db


@pytest.fixture
def broker():
    return Broker(RENDER)


def test_the_wakeup_of_a_tick_reaches_its_own_cluster_although_another_takes_every_message(broker):
    other = ORM(RENDER)
    broker.wake(RENDER)

    assert other.dequeue() is None
    [(row, package)] = broker.dequeue()
    assert row is None
    assert SignedPackage.loads(package)["func"] == TASKS[RENDER]


def test_wakeups_do_not_pile_up_behind_a_long_render_and_none_is_lost(broker):
    broker.wake(RENDER)
    [(_, package)] = broker.dequeue()
    broker.wake(RENDER)
    broker.wake(RENDER)
    assert broker.dequeue() is None

    pre_execute.send("django_q", func=None, task=SignedPackage.loads(package) | {"ack_id": None})

    assert len(broker.dequeue()) == 1
    assert broker.dequeue() is None


def test_messages_still_come_through(broker):
    wake(RENDER)

    [(row, _)] = broker.dequeue()

    assert row
