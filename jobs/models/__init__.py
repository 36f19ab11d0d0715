"""The rows. Django looks for models here."""

from jobs.models.delivery import Delivery, Receiver, SwitchedOff
from jobs.models.engine import Engine, EngineEvent
from jobs.models.event import Event
from jobs.models.job import Job
from jobs.models.key import ApiKey, Served
from jobs.models.metric import Metric
from jobs.models.tombstone import Tombstone

__all__ = [
    "ApiKey",
    "Delivery",
    "Engine",
    "EngineEvent",
    "Event",
    "Job",
    "Metric",
    "Receiver",
    "Served",
    "SwitchedOff",
    "Tombstone",
]
