"""What counts against a job: each cause that ends a claim without a video, and what follows from it.

``docs/architecture.md`` shows this table, and a test compares the two.
"""

from dataclasses import dataclass, replace

from jobs.models import Event

Kind = Event.Kind


@dataclass(frozen=True)
class Cause:
    """``what`` happened, in words; the ``event`` that is noted; and what it means for the job:

    * ``anew``: the job gets a new render. Otherwise its prompt, which may still be in ComfyUI, is looked for
      first.
    * ``counter``: the field of the job that counts this cause, if any. At ``limit`` the job fails.
    * ``pause``: the seconds for which the job waits the first time. Each time in a row the pause doubles, up
      to ``longest_pause``. 0: no wait the first time, then 1, 3, 7 seconds and so on. None: no pause.
    * ``reason`` and ``error``, if the job fails: the word for the metrics, and the sentence for the client.
      The code that meets the failure may give a better sentence (``Claim.end``).
    """

    what: str
    event: Event.Kind
    anew: bool = False
    counter: str = ""
    limit: int = 0
    pause: int | None = None
    longest_pause: int = 600
    reason: str = ""
    error: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is held against the job."""
        return bool(self.counter) or self.event == Kind.FAILED

    def pause_after(self, times: int) -> int:
        """Seconds to wait, if this happened ``times`` times in a row before."""
        doubled = 2 ** min(times, 10)
        return min(self.pause * doubled if self.pause else doubled - 1, self.longest_pause)


# The job goes back to the queue, and nothing is counted against it.

PAUSED = Cause("an operator pauses the engine before the prompt runs", Kind.HANDED_BACK, anew=True)
HANDED_BACK = Cause("the worker hands over; ComfyUI is unreachable or sick", Kind.HANDED_BACK)
# The pause is longer than a sick engine rests (jobs/workers/watch.py), so that another job is
# the first to try the engine again.
NOT_TAKEN = Cause(
    "a request of the job is denied, and it is not clear whether by its own fault",
    Kind.HANDED_BACK,
    anew=True,
    pause=5,
)
NOT_ANSWERED = Cause(
    "a request of the job gets no answer, while ComfyUI answers others", Kind.HANDED_BACK, pause=5
)
LACKING = Cause("a model file or node vanished since the last look", Kind.HANDED_BACK, anew=True, pause=5)
NO_ACCESS = Cause("ComfyUI may not write its output folder", Kind.HANDED_BACK, anew=True, pause=5)
NO_IMAGE_YET = Cause("S3 does not give the start image", Kind.HANDED_BACK, pause=5)
PROMPT_LOST = Cause("the prompt is lost before it ran", Kind.PROMPT_LOST, anew=True, pause=0)
DISK_FULL = Cause("the GPU server's disk is full", Kind.DISK_FULL, anew=True, pause=0)

# Counted against the job, which fails at the limit.

LOST = Cause(
    "the prompt is lost, interrupted, stalled or over its time while it ran; its file is gone or broken",
    Kind.LOST,
    anew=True,
    counter="lost",
    limit=3,
    reason="lost",
    error="The render was lost 3 times on the GPU server; given up.",
)
GPU_FAILED = replace(LOST, what="the GPU failed (an error of CUDA that is not about memory)")
OUT_OF_MEMORY = Cause(
    "out of memory (models are unloaded first)",
    Kind.OUT_OF_MEMORY,
    anew=True,
    counter="out_of_memory",
    limit=2,
    reason="out_of_memory",
    error="The GPU ran out of memory, also on a second try after freeing it.",
)
LEASE_RAN_OUT = Cause(
    "the lease runs out, without progress since the claim",
    Kind.LAPSED,
    counter="lapses",
    limit=5,
    reason="worker",
    error="The worker went away 5 times in a row while it had this job; given up.",
)

# The job itself is at fault, and fails at once.

REFUSED = Cause(
    "the graph or the image is refused by ComfyUI itself, or too large for a server in front of it (413)",
    Kind.FAILED,
    reason="refused",
)
NODE_FAILED = Cause("a node fails", Kind.FAILED, reason="node")
NO_IMAGE = Cause(
    "the start image is no longer in S3",
    Kind.FAILED,
    reason="image",
    error="The reference image is no longer in the storage.",
)
NOT_AS_ASKED = Cause(
    "the video is not what was asked for",
    Kind.FAILED,
    reason="video",
    error="ComfyUI rendered a video of another size, length or format than was asked for.",
)

# While publishing. The render is done, so the job is never given up.

NOT_PUBLISHED = Cause(
    "S3, or the way to it or to the engine, while publishing", Kind.DELAYED, pause=1, longest_pause=30
)

ALL = (
    HANDED_BACK,
    PAUSED,
    NOT_TAKEN,
    NOT_ANSWERED,
    LACKING,
    NO_ACCESS,
    NO_IMAGE_YET,
    PROMPT_LOST,
    DISK_FULL,
    LOST,
    GPU_FAILED,
    OUT_OF_MEMORY,
    LEASE_RAN_OUT,
    REFUSED,
    NODE_FAILED,
    NO_IMAGE,
    NOT_AS_ASKED,
    NOT_PUBLISHED,
)

# All fields that count something, also those that only make pauses longer. An operator's requeue sets them
# to 0.
COUNTERS = ("lost", "out_of_memory", "lapses", "snoozes", "publish_tries")
