"""How a worker's tick wakes its own cluster."""

import pytest
from django_q.brokers.orm import ORM
from django_q.signals import pre_execute
from django_q.signing import SignedPackage

from jobs.queue.wake import DELIVER, PUBLISH, RENDER, TASKS, wake
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


def test_a_cluster_with_two_tasks_is_woken_for_each():
    broker = Broker(PUBLISH)
    broker.wake(PUBLISH)
    broker.wake(DELIVER)

    packages = [SignedPackage.loads(broker.dequeue()[0][1])["func"] for _ in range(2)]

    assert sorted(packages) == ["jobs.deliver.deliver", "jobs.publish.publish"]
    assert broker.dequeue() is None


def test_a_message_about_webhooks_goes_to_the_publish_cluster():
    wake(DELIVER)

    assert Broker(RENDER).dequeue() is None
    assert Broker(PUBLISH).dequeue()
