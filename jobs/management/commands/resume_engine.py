"""``manage.py resume_engine``: a paused engine gets new jobs again."""

from jobs.management.engines import EnginesCommand
from jobs.models.engine import EngineQuerySet
from jobs.queue.engines import resume


class Command(EnginesCommand):
    help = "Resumes paused engines: they get new jobs again."
    done = "resumed"

    def change(self, engines: EngineQuerySet) -> list[str]:
        return resume(engines, "by manage.py resume_engine")
