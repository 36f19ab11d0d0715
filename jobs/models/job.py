"""The job's row: its fields, what the database itself enforces, and what is derived from it.

    queued -> processing -> completed
       ^          |    \\--> failed
       |          |     \\-> cancelled      (queued -> cancelled, too)
       +----------+  processing: the lease ran out, or the worker handed over
       +-- failed, cancelled: an operator requeues

A worker holds a job by a lease (``lease_until``) under a fence number that goes up with each claim. All
times are Postgres' own. Every change of a state is in ``jobs/queue/``.
"""

import re
import uuid
from collections.abc import Iterator
from typing import Any

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.functional import cached_property

from jobs.models.engine import Engine
from jobs.models.key import ApiKey

SUSPECT = 2  # lapses from which on a job is rendered alone, since it may be what kills its workers

ID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
KEYS = re.compile(
    rf"inputs/{ID}(?:-last)?\.png|videos/{ID}/(?:0|[1-9][0-9]{{0,18}})\.(?:mp4|jpg)"
)  # of objects of ours: see Job

FINAL = ("completed", "failed", "cancelled")
# Of jobs of the releases that stored none.
BEFORE_PARAMETERS: dict[str, Any] = {"size": "832x480", "num_frames": 81, "fps": 16}
REQUEUABLE = ("failed", "cancelled")


def owner(key: str) -> uuid.UUID | None:
    """The id of the job to which an object of this name in S3 belongs; None if we give no such names."""
    match = KEYS.fullmatch(key)
    return uuid.UUID(match[1] or match[2]) if match else None


def prompt_id(job_id: uuid.UUID, render: int) -> str:
    """ComfyUI's id of this render. It is derived, so that whoever takes a job over can find its prompt."""
    return str(uuid.uuid5(job_id, str(render)))


def folder(job_id: uuid.UUID) -> str:
    """Everything that a job owns in ComfyUI's input and output folders lies below this one."""
    return f"wanapi/{job_id}"


class JobQuerySet(models.QuerySet["Job"]):
    def queued(self) -> "JobQuerySet":
        return self.filter(status=Job.Status.QUEUED)

    def in_order(self) -> "JobQuerySet":
        """In the order in which they are served: ``turn`` lets API keys take turns."""
        return self.order_by("-priority", "turn", "id")

    def rendering(self) -> "JobQuerySet":
        """Held, and not yet rendered."""
        return self.filter(lease_until__isnull=False, rendered_at=None)

    def begun_on(self, engine: Engine) -> "JobQuerySet":
        """Unfinished renders whose prompts may be in this engine's ComfyUI, held or not."""
        return self.filter(engine=engine, rendered_at=None).exclude(status__in=FINAL)

    def to_remove(self) -> "JobQuerySet":
        """Deleted by their clients before they were finished; their prompts are in no ComfyUI any more, or in
        one that fell silent."""
        gone = Q(engine=None) | Q(engine__in=Engine.objects.silent())
        return self.filter(gone, deleted=True, status__in=FINAL)

    def leaving(self, engine: Engine) -> "JobQuerySet":
        """Deleted by their clients, while their prompts were in this engine's ComfyUI."""
        return self.filter(engine=engine, deleted=True, status__in=FINAL)

    def begun_on_any(self) -> "JobQuerySet":
        return self.filter(
            status__in=["queued", "processing"], rendered_at=None, engine__isnull=False
        ).order_by("started_at", "id")

    def to_render(self) -> "JobQuerySet":
        return self.queued().filter(Q(not_before=None) | Q(not_before__lte=Now()), lease_until=None)

    def to_publish(self) -> "JobQuerySet":
        return self.filter(
            Q(not_before=None) | Q(not_before__lte=Now()),
            status=Job.Status.PROCESSING,
            rendered_at__isnull=False,
            lease_until=None,
        )

    def in_pages(self, by: str, size: int = 500) -> Iterator["Job"]:
        """All of these, a page at a time, ordered by the time ``by`` (``-by``: newest first).

        All at once would not fit into memory, and a cursor of the server is lost behind a pooler in
        transaction mode. A row that the caller removes, or cannot remove, does not disturb the next page.
        """
        name, after = by.removeprefix("-"), "lt" if by.startswith("-") else "gt"
        ordered = self.order_by(by, "-id" if after == "lt" else "id")
        page = list(ordered[:size])
        while page:
            yield from page
            time, pk = getattr(page[-1], name), page[-1].pk
            beyond = Q(**{f"{name}__{after}": time}) | Q(**{name: time, f"pk__{after}": pk})
            # ``beyond`` implies the other condition, but only that one lets Postgres begin in the index where
            # the page ended.
            page = list(ordered.filter(beyond, **{f"{name}__{after}e": time})[:size])


class Job(models.Model):
    """A video that was asked for. The row is the job; queue messages and ComfyUI's memory are only hints."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        PROCESSING = "processing"
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Kind(models.TextChoices):
        TEXT_TO_VIDEO = "text-to-video"
        IMAGE_TO_VIDEO = "image-to-video"
        FIRST_LAST_FRAME = "first-last-frame"

    # What was asked for
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=20, choices=Kind)
    prompt = models.TextField()
    preset = models.CharField(max_length=64)  # a reference: its name, and a hash of its content
    seed = models.BigIntegerField()
    parameters = models.JSONField(default=dict, db_default={}, blank=True)  # all of them, as it is rendered
    warnings = models.JSONField(default=list, db_default=[], blank=True)  # sentences for the client
    work = models.BigIntegerField(default=0, db_default=0)  # pixels x frames x steps; 0: not known
    size_factor = models.PositiveSmallIntegerField(default=1, db_default=1)  # of an upscaler in the preset
    rate_factor = models.PositiveSmallIntegerField(default=1, db_default=1)  # of an interpolator
    has_first_image = models.BooleanField(default=False, db_default=False)  # a last frame may come alone
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    first_position = models.PositiveIntegerField(default=0)
    key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.PROTECT, verbose_name="API key")
    priority = models.SmallIntegerField(db_default=0)
    turn = models.BigIntegerField(db_default=0)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    request_sha256 = models.CharField(max_length=64, blank=True, default="")
    # A client's library sent this request again, and the first one may still be under way (queue/submit.py).
    repeated = models.BooleanField(default=False, db_default=False)
    # Its client deleted it before it was finished. Nobody but operators sees it; retention removes the row.
    deleted = models.BooleanField(default=False, db_default=False)
    webhook_url = models.TextField(blank=True, default="", db_default="")  # sealed; "": nobody is told
    webhook_events = models.JSONField(default=list, db_default=[], blank=True)

    # Where it stands
    status = models.CharField(max_length=20, choices=Status, default=Status.QUEUED)
    progress = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField(null=True, blank=True)
    rendered_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True, default="")

    # The claim
    worker = models.CharField(max_length=255, blank=True, default="")
    fence = models.BigIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(null=True, blank=True)
    attempt = models.PositiveIntegerField(default=0)

    # The render: set before its prompt is posted, so that a successor knows where to look
    engine = models.ForeignKey(Engine, null=True, blank=True, on_delete=models.SET_NULL)
    render = models.PositiveIntegerField(default=0)
    output = models.CharField(max_length=255, blank=True, default="")

    # What counts against it
    lost = models.PositiveSmallIntegerField(default=0)
    out_of_memory = models.PositiveSmallIntegerField(default=0)
    lapses = models.PositiveSmallIntegerField(default=0)
    publish_tries = models.PositiveIntegerField(default=0)

    # How often in a row it was given back without being counted: each time it waits longer
    snoozes = models.PositiveSmallIntegerField(default=0, db_default=0)

    # The video
    video_size = models.BigIntegerField(null=True, blank=True)
    video_frames = models.PositiveIntegerField(null=True, blank=True)
    video_sha256 = models.CharField(max_length=64, blank=True, default="")

    objects = JobQuerySet.as_manager()

    # These changes put a job back into the queue, to be rendered anew. ``render`` is not among them: it goes
    # on counting, so that prompt ids stay unique.
    UNRENDERED: dict[str, Any] = {
        "status": Status.QUEUED,
        "engine": None,
        "started_at": None,
        "rendered_at": None,
        "output": "",
        "progress": 0,
    }

    class Meta:
        indexes = [
            models.Index(fields=["-priority", "turn", "id"], name="job_queue", condition=Q(status="queued")),
            models.Index(
                fields=["key", "priority", "turn"], name="job_queue_of_key", condition=Q(status="queued")
            ),
            models.Index(fields=["key", "-created_at", "-id"], name="job_list_by_key"),
            models.Index(
                fields=["rendered_at", "id"],
                name="job_to_publish",
                condition=Q(status="processing", rendered_at__isnull=False),
            ),
            models.Index(
                fields=["engine"], name="job_begun", condition=Q(status="queued", engine__isnull=False)
            ),
            models.Index(fields=["lease_until"], name="job_leases", condition=Q(lease_until__isnull=False)),
            models.Index(fields=["finished_at"], name="job_finished", condition=Q(finished_at__isnull=False)),
            models.Index(fields=["-created_at", "-id"], name="job_list"),
            models.Index(fields=["status", "-created_at", "-id"], name="job_list_by_status"),
            models.Index(fields=["request_sha256"], name="job_repeated", condition=Q(repeated=True)),
            models.Index(fields=["finished_at"], name="job_deleted", condition=Q(deleted=True)),
        ]
        constraints = [
            models.UniqueConstraint(fields=["key", "idempotency_key"], name="idempotency_of_key"),
            models.UniqueConstraint(
                fields=["idempotency_key"], condition=Q(key=None), name="idempotency_of_environments_key"
            ),
            models.CheckConstraint(
                condition=Q(status__in=["queued", "processing", *FINAL]),
                name="job_status_known",
            ),
            models.CheckConstraint(condition=Q(progress__lte=100), name="job_progress_is_percent"),
            models.CheckConstraint(
                condition=Q(status="queued", finished_at=None, rendered_at=None)
                | Q(status="processing", finished_at=None, started_at__isnull=False)
                | Q(status__in=FINAL, finished_at__isnull=False, lease_until=None),
                name="job_times_fit_status",
            ),
            models.CheckConstraint(
                condition=~Q(status="completed")
                | (
                    # isnull as well: a CHECK that compares with NULL passes
                    Q(video_size__isnull=False, video_frames__isnull=False, rendered_at__isnull=False)
                    & Q(video_size__gt=0, video_frames__gt=0)
                    & ~Q(video_sha256="")
                ),
                name="job_completed_has_video",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=REQUEUABLE) | ~Q(error=""), name="job_failed_has_error"
            ),
        ]

    def __str__(self) -> str:
        return str(self.pk)

    # What others derive from the row

    @property
    def is_begun(self) -> bool:
        """Whether a worker holds it, or its render was begun."""
        return bool(self.lease_until or self.engine_id)

    @property
    def earlier(self) -> Q:
        """The jobs of a higher priority or an earlier turn."""
        same = Q(priority=self.priority)
        return (
            Q(priority__gt=self.priority)
            | same & Q(turn__lt=self.turn)
            | same & Q(turn=self.turn, pk__lt=self.pk)
        )

    @cached_property
    def position(self) -> int:
        """How many queued jobs will be processed before this one. Those that are begun come first."""
        if self.status != self.Status.QUEUED:
            return 0
        begun = Q(lease_until__isnull=False) | Q(engine__isnull=False)
        before = begun & self.earlier if self.is_begun else begun | self.earlier
        return Job.objects.queued().filter(before).count()

    @property
    def prompt_id(self) -> str:
        """ComfyUI's id of the current render; it means nothing before the first render."""
        return prompt_id(self.pk, self.render)

    @property
    def folder(self) -> str:
        return folder(self.pk)

    @property
    def log_fields(self) -> dict[str, Any]:
        prompt = self.prompt_id if self.render else None
        return {"job_id": str(self.pk), "attempt": self.attempt, "prompt_id": prompt}

    @property
    def is_suspect(self) -> bool:
        return self.lapses >= SUSPECT

    @property
    def input_key(self) -> str:
        return f"inputs/{self.pk}.png"

    @property
    def last_input_key(self) -> str:
        """Of the image of the last frame."""
        return f"inputs/{self.pk}-last.png"

    @property
    def input_keys(self) -> list[str]:
        """Of the images that it was submitted with."""
        first = self.kind == self.Kind.IMAGE_TO_VIDEO or self.has_first_image
        last = self.kind == self.Kind.FIRST_LAST_FRAME
        return [self.input_key] * first + [self.last_input_key] * last

    @property
    def preset_name(self) -> str:
        return self.preset.partition("@")[0]

    @property
    def shown_parameters(self) -> dict[str, Any]:
        return {"preset": self.preset_name, "seed": self.seed} | (self.parameters or BEFORE_PARAMETERS)

    @property
    def video_wanted(self) -> tuple[tuple[int, int], tuple[int, int], int]:
        """What its video must be: width and height in pixels, the least and the most frames, and frames per
        second. (An interpolator makes several of each frame, and of the last one perhaps not.)"""
        asked = self.parameters or BEFORE_PARAMETERS
        width, height = map(int, asked["size"].split("x"))
        size = width * self.size_factor, height * self.size_factor
        least = (asked["num_frames"] - 1) * self.rate_factor + 1
        frames = least, asked["num_frames"] * self.rate_factor
        return size, frames, asked["fps"] * self.rate_factor

    @property
    def video_key(self) -> str:
        """One key per claim, so that a publisher that lost its claim can delete what it uploaded."""
        return f"videos/{self.pk}/{self.fence}.mp4"

    @property
    def poster_key(self) -> str:
        """A small image of the video, for operators."""
        return f"videos/{self.pk}/{self.fence}.jpg"
