"""The rows. Django looks for models here."""

from jobs.models.engine import Engine, EngineEvent
from jobs.models.event import Event
from jobs.models.job import Job
from jobs.models.key import ApiKey, Served
from jobs.models.metric import Metric
from jobs.models.tombstone import Tombstone

__all__ = ["ApiKey", "Engine", "EngineEvent", "Event", "Job", "Metric", "Served", "Tombstone"]
