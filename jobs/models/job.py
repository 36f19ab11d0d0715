"""Jobs: what they are, and every way in which they change. Nothing else changes a state.

    queued -> processing -> completed
       ^          |    \\--> failed
       |          |     \\-> cancelled      (queued -> cancelled, too)
       +----------+  processing: the lease ran out, or the worker handed over
       +-- failed, cancelled: an operator requeues

A worker holds a job by a lease (``lease_until``) under a fence number that goes up with each claim. Every
write of a worker names its fence; one whose claim was taken over changes no row and gets ClaimLost.
All times are the database's.
"""

import re
import secrets
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import Case, Exists, F, Max, Q, Value, When
from django.db.models.functions import Coalesce, Least, Now
from django_q.models import OrmQ
from django_q.tasks import async_task

from comfy import workflow
from comfy.workflow import Graph
from jobs.media import storage
from jobs.models.engine import Engine, seconds
from jobs.models.event import Event
from jobs.models.key import ApiKey, LimitReached, Served
from jobs.models.metric import Metric
from jobs.models.tombstone import Tombstone

# Django looks for models here.
__all__ = ["ApiKey", "Engine", "Event", "Job", "Metric", "Served", "Tombstone"]

SUBMISSIONS = 0x57414E  # the number of their lock in Postgres
RENDER, PUBLISH = "render", "publish"  # the two clusters
CANCELLED = "wanapi_cancelled"  # the channel in Postgres that tells of cancelled jobs
TASKS = {RENDER: "jobs.render.render", PUBLISH: "jobs.publish.publish"}

MAX_LOST = 3  # renders lost, stalled or timed out while they ran
MAX_OUT_OF_MEMORY = 2
MAX_LAPSES = 5  # claims in a row whose lease ran out without any progress
SUSPECT = 2  # lapses from which on a job is rendered alone: it may kill its worker, and others with it
MAX_PAUSE = 30  # seconds between two tries to publish
# Seconds for which a job waits that was given back uncounted: at first, and at most. Longer than a sick
# engine rests (jobs/workers/watch.py), so that another job is the first to try it when it is well.
SNOOZE, MAX_SNOOZE = 5, 600

ID = r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
KEYS = re.compile(
    rf"inputs/{ID}\.png|videos/{ID}/(?:0|[1-9][0-9]{{0,18}})\.(?:mp4|jpg)"
)  # of objects of ours: see Job

FINAL = ("completed", "failed", "cancelled")
REQUEUABLE = ("failed", "cancelled")


class QueueFull(LimitReached):
    """Of all keys together."""


class ClaimLost(Exception):
    """Somebody else holds this job by now, or it is finished: drop it and change nothing."""


def owner(key: str) -> uuid.UUID | None:
    """The id of the job that an object of this name belongs to; None if the name is none of ours."""
    match = KEYS.fullmatch(key)
    return uuid.UUID(match[1] or match[2]) if match else None


def ago(age: timedelta) -> Any:
    return Now() - Value(age)


def wake(cluster: str) -> None:
    """Tells a cluster that there is work. Joins the caller's transaction; carries no job id, so that a
    message lost or doubled does no harm."""
    async_task(TASKS[cluster], cluster=cluster)


def wake_if_idle(cluster: str) -> None:
    """As ``wake``, unless a message already waits: makes good for those that were lost."""
    if not OrmQ.objects.filter(key=cluster, lock__lte=Now()).exists():
        wake(cluster)


def lock_submissions() -> None:
    """One after the other until the transaction ends, so that limits are exact and turns are given once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SUBMISSIONS])


class JobQuerySet(models.QuerySet["Job"]):
    def queued(self) -> "JobQuerySet":
        return self.filter(status=Job.Status.QUEUED)

    def in_order(self) -> "JobQuerySet":
        """As they are served: ``turn`` lets keys take turns."""
        return self.order_by("-priority", "turn", "id")

    def rendering(self) -> "JobQuerySet":
        """Held, and not yet rendered."""
        return self.filter(lease_until__isnull=False, rendered_at=None)

    def begun_on(self, engine: Engine) -> "JobQuerySet":
        """Unfinished renders whose prompts may be in this engine's ComfyUI, held or not."""
        return self.filter(engine=engine, rendered_at=None).exclude(status__in=FINAL)

    def to_render(self) -> "JobQuerySet":
        return self.queued().filter(Q(not_before=None) | Q(not_before__lte=Now()), lease_until=None)

    def waiting_for(self, engine: Engine) -> "JobQuerySet":
        """Those that this engine may render now: begun on it, or new and such that it can run them. Those
        begun on another are left to it, unless it fell silent."""
        free = Q(engine=None) | Q(engine__in=Engine.objects.silent().exclude(pk=engine.pk))
        runnable = Q(pk__in=[])
        for preset, kind in (pair.split("/") for pair in engine.abilities):
            runnable |= Q(preset=preset, kind=kind)
        return self.to_render().filter(Q(engine=engine) | free & runnable)

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
            # The first condition alone lets Postgres begin in the index where the page ended.
            page = list(ordered.filter(beyond, **{f"{name}__{after}e": time})[:size])

    def check_limits(self, key: ApiKey | None) -> None:
        """Raises LimitReached if one job more of this key would be too many."""
        waiting = self.queued().count()
        if waiting >= settings.MAX_WAITING:
            raise QueueFull(f"The queue is full: {waiting} jobs are waiting.", wait=60)
        if key:
            key.check_limits(self.queued().filter(key=key).count())

    def next_turn(self, key: ApiKey | None, priority: int) -> int:
        """The turn now served in this priority, or the one after the key's last: so a key with one job waits
        for one job of each other key, not for all of them. Jobs that were cancelled took none."""
        claimed = Served.objects.filter(key=key, priority=priority).aggregate(turn=Max("turn"))["turn"] or 0
        waiting = self.queued().filter(key=key, priority=priority).aggregate(turn=Max("turn"))["turn"] or 0
        return max(Served.objects.of(priority), claimed + 1, waiting + 1)

    def submit(self, job: "Job") -> "Job":
        """Accepts a job: its row and the wake-up commit together. Raises LimitReached, and IntegrityError
        if its idempotency key was used already; a request with the same one under way is waited for."""
        with transaction.atomic():
            lock_submissions()
            if job.key_id:
                job.key = ApiKey.objects.get(pk=job.key_id)
                job.priority = job.key.priority
            self.check_limits(job.key)
            if job.key:
                job.key.count_one()
            job.turn = self.next_turn(job.key, job.priority)
            job.preset = settings.WORKFLOW_PRESET
            job.seed = secrets.randbelow(2**48)
            job.save(force_insert=True)
            job.refresh_from_db()
            job.first_position = job.position
            job.save(update_fields=["first_position"])
            Event.objects.note([job], Event.Kind.CREATED, detail=f"with {job.key or 'the API_KEY'}")
            wake(RENDER)
        return job

    def submitted_with(self, idempotency_key: str, key: ApiKey | None) -> "Job | None":
        """The job of this API key that the idempotency key belongs to; one older than IDEMPOTENCY_HOURS is
        freed."""
        jobs = self.filter(idempotency_key=idempotency_key, key=key)
        jobs.filter(created_at__lt=Now() - seconds(3600 * settings.IDEMPOTENCY_HOURS)).update(
            idempotency_key=None
        )
        return jobs.first()

    def claim_render(self, engine: Engine, *, images: bool = True, suspects: bool = True) -> "Job | None":
        """The next job for this engine, held by its worker; None if there is none or the engine is not ours.

        Renders that were begun on this engine come first: their prompt may still be there. Without
        ``images``, no image job is begun; without ``suspects``, none is claimed that its last workers did
        not survive.
        """
        ready = Engine.objects.held_by(engine.worker).filter(pk=engine.pk, ready=True)
        waiting = self.waiting_for(engine).filter(Exists(ready)).in_order()
        if not suspects:
            waiting = waiting.filter(lapses__lt=SUSPECT)
        new = waiting.exclude(engine=engine)
        if not images:
            new = new.exclude(kind=Job.Kind.IMAGE_TO_VIDEO)
        begun = waiting.filter(engine=engine)
        for jobs, kind in ((begun, Event.Kind.ADOPTED), (new, Event.Kind.CLAIMED)):
            if job := jobs._claim(engine.worker, kind, attempt=F("attempt") + 1):
                return job
        return None

    def claim_publish(self, worker: str) -> "Job | None":
        jobs = self.to_publish().order_by("rendered_at", "id")
        return jobs._claim(worker, Event.Kind.PUBLISHING)

    def _claim(self, worker: str, kind: Event.Kind, **changes: Any) -> "Job | None":
        with transaction.atomic():
            job = self.select_for_update(skip_locked=True, of=("self",)).first()
            if job is None:
                return None
            Job.objects.filter(pk=job.pk).update(
                worker=worker,
                fence=F("fence") + 1,
                lease_until=Now() + seconds(settings.JOB_LEASE),
                not_before=None,
                **changes,
            )
            job.refresh_from_db()
            if kind == Event.Kind.CLAIMED:
                Served.objects.note(job.key_id, job.priority, job.turn)
            Event.objects.note([job], kind)
            return job

    def renew(self, claims: dict[uuid.UUID, int]) -> None:
        """Heartbeat: extends the leases of these jobs, given with the fence under which each is held."""
        for pk, fence in claims.items():
            self.filter(pk=pk, fence=fence, lease_until__isnull=False).update(
                lease_until=Now() + seconds(settings.JOB_LEASE)
            )

    def return_lapsed(self) -> int:
        """Gives these held jobs back because their worker is gone; the fifth time in a row a job fails.

        A render goes back to the queue and keeps its engine, where its prompt may still run.
        A finished render stays ``processing``, for the next publisher.
        """
        message = f"The worker went away {MAX_LAPSES} times in a row while it had this job; given up."
        with transaction.atomic():
            # All of them first: _change() locks the counters as well, and jobs come before those everywhere.
            locked = [job.pk for job in self.select_for_update(of=("self",)).order_by("pk")]
            held = Job.objects.filter(pk__in=locked)
            failed = held.filter(lapses__gte=MAX_LAPSES - 1)._change(
                Event.Kind.FAILED,
                reason="worker",
                status=Job.Status.FAILED,
                error=message,
                lapses=MAX_LAPSES,
                finished_at=Now(),
                lease_until=None,
            )
            return failed + held.filter(lease_until__isnull=False)._change(
                Event.Kind.LAPSED,
                status=Case(
                    When(rendered_at=None, then=Value(Job.Status.QUEUED)),
                    default=Value(Job.Status.PROCESSING),
                ),
                lapses=F("lapses") + 1,
                lease_until=None,
            )

    def _change(self, kind: Event.Kind, *, reason: str = "", detail: str = "", **changes: Any) -> int:
        """Changes these rows, whoever holds them, and notes it."""
        with transaction.atomic():
            jobs = list(self.select_for_update(of=("self",)).order_by("pk"))
            Job.objects.filter(pk__in=[job.pk for job in jobs]).update(**changes)
            Event.objects.note(jobs, kind, reason=reason, detail=detail)
            return len(jobs)

    def return_expired(self) -> int:
        return self.filter(lease_until__lt=Now()).return_lapsed()

    def cancel(self, detail: str = "") -> int:
        """Ends jobs that are queued or under way; ``detail`` says who wanted it. Their rows are final at
        once; whoever holds one finds its claim lost and takes its prompt out of ComfyUI."""
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {CANCELLED}")  # a hint for the renderers to look now
            return self.filter(status__in=[Job.Status.QUEUED, Job.Status.PROCESSING])._change(
                Event.Kind.CANCELLED,
                detail=detail,
                status=Job.Status.CANCELLED,
                error="Cancelled.",
                finished_at=Now(),
                lease_until=None,
            )

    def standing(self, claims: dict[uuid.UUID, int]) -> set[uuid.UUID]:
        """The jobs of these claims, given with their fences, that are still held under them."""
        rows = self.filter(pk__in=claims, lease_until__isnull=False).values_list("pk", "fence")
        return {pk for pk, fence in rows if claims[pk] == fence}

    def _give_turns(self) -> None:
        """In the order in which they came, each key's after what it has in the queue already."""
        jobs = list(self.select_related("key").order_by("created_at", "id"))
        turns: dict[tuple[int | None, int], int] = {}
        for job in jobs:
            share = (job.key_id, job.priority)
            turns[share] = (
                turns[share] + 1 if share in turns else Job.objects.next_turn(job.key, job.priority)
            )
            job.turn = turns[share]
        Job.objects.bulk_update(jobs, ["turn"], batch_size=1000)

    def requeue(self, detail: str = "") -> int:
        """An operator's second chance for failed and cancelled jobs: a new render, all counters back to 0,
        and a new turn, so that a key's hundred failed jobs do not come before everybody's."""
        with transaction.atomic():
            lock_submissions()
            chosen = list(self.filter(status__in=REQUEUABLE).values_list("pk", flat=True))
            jobs = Job.objects.filter(pk__in=chosen, status__in=REQUEUABLE)
            count = jobs._change(
                Event.Kind.REQUEUED,
                detail=detail,
                **Job.UNRENDERED,
                error="",
                finished_at=None,
                not_before=None,
                attempt=0,
                lost=0,
                out_of_memory=0,
                lapses=0,
                snoozes=0,
                publish_tries=0,
                turn=0,
            )
            Job.objects.queued().filter(pk__in=chosen)._give_turns()
            if count:
                wake(RENDER)
        return count


class Job(models.Model):
    """A video that was asked for. The row is the job; queue messages and ComfyUI's memory are hints."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        PROCESSING = "processing"
        COMPLETED = "completed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Kind(models.TextChoices):
        TEXT_TO_VIDEO = "text-to-video"
        IMAGE_TO_VIDEO = "image-to-video"

    # What was asked for
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=20, choices=Kind)
    prompt = models.TextField()
    preset = models.CharField(max_length=20)
    seed = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    first_position = models.PositiveIntegerField(default=0)
    key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.PROTECT, verbose_name="API key")
    priority = models.SmallIntegerField(db_default=0)
    turn = models.BigIntegerField(db_default=0)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    request_sha256 = models.CharField(max_length=64, blank=True, default="")

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

    # How often in a row it was given back uncounted: the next pause is longer
    snoozes = models.PositiveSmallIntegerField(default=0, db_default=0)

    # The video
    video_size = models.BigIntegerField(null=True, blank=True)
    video_frames = models.PositiveIntegerField(null=True, blank=True)
    video_sha256 = models.CharField(max_length=64, blank=True, default="")

    objects = JobQuerySet.as_manager()

    # Back to the queue, to be rendered anew. ``render`` goes on counting, so that prompt ids stay unique.
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

    def purge(self) -> int:
        """Removes a finished job for good. The objects go first: a row without objects can be purged again,
        objects without a row nobody would find."""
        with transaction.atomic():
            row = Job.objects.select_for_update().filter(pk=self.pk, status__in=FINAL)
            if not row.exists():
                return 0  # requeued meanwhile
            videos = [key for key, _ in storage.listed(f"videos/{self.pk}/") if owner(key)]
            storage.delete([self.input_key, *videos])
            Tombstone.objects.note(self.pk)
            return row.delete()[1]["jobs.Job"]

    # What others derive from the row

    @property
    def position(self) -> int:
        """How many queued jobs will be processed before this one. Those that a worker holds, or whose
        render was begun, come first."""
        if self.status != self.Status.QUEUED:
            return 0
        begun = Q(lease_until__isnull=False) | Q(engine__isnull=False)
        same = Q(priority=self.priority)
        earlier = (
            Q(priority__gt=self.priority)
            | same & Q(turn__lt=self.turn)
            | same & Q(turn=self.turn, pk__lt=self.pk)
        )
        mine = bool(self.lease_until or self.engine_id)
        return Job.objects.queued().filter(begun & earlier if mine else begun | earlier).count()

    @property
    def about(self) -> dict[str, Any]:
        """For the log."""
        prompt_id = workflow.prompt_id(self.pk, self.render) if self.render else None
        return {"job_id": str(self.pk), "attempt": self.attempt, "prompt_id": prompt_id}

    @property
    def is_suspect(self) -> bool:
        return self.lapses >= SUSPECT

    @property
    def input_key(self) -> str:
        return f"inputs/{self.pk}.png"

    @property
    def video_key(self) -> str:
        """One key per claim, so that a publisher that lost its claim can delete what it uploaded."""
        return f"videos/{self.pk}/{self.fence}.mp4"

    @property
    def poster_key(self) -> str:
        """A small image of the video, for operators."""
        return f"videos/{self.pk}/{self.fence}.jpg"

    # What the worker that holds the job does to it

    def _write(self, kind: Event.Kind | None, *, note: dict[str, Any] | None = None, **changes: Any) -> None:
        """Changes the row if we still hold it, and notes the event."""
        held = Job.objects.filter(
            pk=self.pk,
            fence=self.fence,
            lease_until__isnull=False,
            status__in=[self.Status.QUEUED, self.Status.PROCESSING],
        )
        with transaction.atomic():  # the row stays locked until we have read it: its fence is still ours
            if not held.update(**changes):
                raise ClaimLost(self.pk)
            self.refresh_from_db()
            if kind:
                Event.objects.note([self], kind, **(note or {}))

    def begin(self, engine: Engine, build: Callable[["Job"], Graph]) -> Graph:
        """A new render on this engine; committed before its prompt is posted. Returns its graph."""
        if not Engine.objects.held_by(engine.worker).filter(pk=engine.pk).exists():
            raise ClaimLost(self.pk)
        with transaction.atomic():
            self._write(None, engine=engine, render=F("render") + 1, started_at=None, progress=0)
            graph = build(self)
            Event.objects.note([self], Event.Kind.POSTED, graph=graph)
        return graph

    def started(self) -> None:
        """ComfyUI executes the prompt. An adopted one has run before: no news, no new chances."""
        if self.started_at:
            self._write(None, status=self.Status.PROCESSING)
        else:
            self._write(
                Event.Kind.STARTED, status=self.Status.PROCESSING, started_at=Now(), lapses=0, snoozes=0
            )

    def advanced(self, progress: int) -> None:
        self._write(None, progress=progress, lapses=0)

    def rendered(self, output: str) -> None:
        """The video lies in the engine's output folder; gives the job to the publishers."""
        with transaction.atomic():
            self._write(
                Event.Kind.RENDERED,
                status=self.Status.PROCESSING,
                started_at=Coalesce("started_at", Now()),
                rendered_at=Now(),
                progress=99,
                output=output,
                lapses=0,
                lease_until=None,
            )
            wake(PUBLISH)

    def completed(self, *, size: int, frames: int, sha256: str) -> None:
        """The video is in S3 under ``video_key`` and was checked. May be said twice: a commit whose answer
        was lost has happened all the same."""
        try:
            self._write(
                Event.Kind.COMPLETED,
                status=self.Status.COMPLETED,
                finished_at=Now(),
                progress=100,
                video_size=size,
                video_frames=frames,
                video_sha256=sha256,
                lease_until=None,
            )
        except ClaimLost:
            if not Job.objects.filter(pk=self.pk, fence=self.fence, status=self.Status.COMPLETED).exists():
                raise
            self.refresh_from_db()

    def failed(self, error: str, *, reason: str, detail: str = "") -> None:
        """``error`` is for the client, ``detail`` for operators, ``reason`` one word for the metrics."""
        self._write(
            Event.Kind.FAILED,
            note={"reason": reason, "detail": detail},
            status=self.Status.FAILED,
            finished_at=Now(),
            error=error,
            lease_until=None,
        )

    def lost_render(self, detail: str = "") -> None:
        """A render that ran came to nothing: back to the queue for a new one; the third fails the job."""
        if self.lost + 1 >= MAX_LOST:
            error = f"The render was lost {MAX_LOST} times on the GPU server; given up."
            self.failed(error, reason="lost", detail=detail)
        else:
            self._render_anew(Event.Kind.LOST, detail, lost=F("lost") + 1)

    def ran_out_of_memory(self, detail: str = "") -> None:
        """As ``lost_render``; the second fails the job."""
        if self.out_of_memory + 1 >= MAX_OUT_OF_MEMORY:
            error = "The GPU ran out of memory, also on a second try after freeing it."
            self.failed(error, reason="out_of_memory", detail=detail)
        else:
            self._render_anew(Event.Kind.OUT_OF_MEMORY, detail, out_of_memory=F("out_of_memory") + 1)

    def snooze(self, detail: str, *, kind: Event.Kind = Event.Kind.HANDED_BACK, anew: bool = True) -> None:
        """Gives a render back without counting it: it did not fail by its own fault. It may be taken up again
        after a pause that doubles each time; whose prompt was lost, or met a full disk, at once for the first
        time. Not ``anew``: its prompt may be in ComfyUI, so it keeps its engine."""
        doubled = 2 ** min(self.snoozes, 10)
        pause = min(SNOOZE * doubled if kind == Event.Kind.HANDED_BACK else doubled - 1, MAX_SNOOZE)
        with transaction.atomic():
            self._write(
                kind,
                note={"detail": detail},
                **self.UNRENDERED if anew else {"status": self.Status.QUEUED},
                attempt=F("attempt") - 1,
                lapses=0,
                snoozes=Least(F("snoozes") + 1, 1000),
                lease_until=None,
                not_before=Now() + seconds(pause),
            )
            wake(RENDER)

    def _render_anew(self, kind: Event.Kind, detail: str, **counted: Any) -> None:
        with transaction.atomic():
            self._write(kind, note={"detail": detail}, **self.UNRENDERED, lease_until=None, **counted)
            wake(RENDER)

    def hand_back(self, detail: str) -> None:
        """Gives a render back without counting it, because of what ``detail`` tells. The next worker goes on
        where this one stopped: a render that was begun keeps its engine."""
        self._write(
            Event.Kind.HANDED_BACK,
            note={"detail": detail},
            status=self.Status.QUEUED,
            attempt=F("attempt") - 1,
            lapses=0,
            lease_until=None,
        )

    def publish_later(self, detail: str = "") -> None:
        """S3, or the way to it or to the engine, is in trouble: growing pauses, without end. Noted once."""
        pause = min(2 ** min(self.publish_tries, 10), MAX_PAUSE)
        self._write(
            None if self.publish_tries else Event.Kind.DELAYED,
            note={"detail": detail},
            publish_tries=F("publish_tries") + 1,
            lapses=0,
            lease_until=None,
            not_before=Now() + seconds(pause),
        )
