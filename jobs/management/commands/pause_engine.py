"""``manage.py pause_engine``: an engine gets no new jobs."""

from jobs.management.engines import EnginesCommand
from jobs.models.engine import EngineQuerySet
from jobs.queue.engines import pause


class Command(EnginesCommand):
    help = "Pauses engines: each ends the job that it renders now, and gets no new ones until resume_engine."
    done = "paused"

    def change(self, engines: EngineQuerySet) -> list[str]:
        return pause(engines, "by manage.py pause_engine")
