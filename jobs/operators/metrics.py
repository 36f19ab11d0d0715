"""/metrics, for Prometheus: counters of Postgres, what its rows say now, and this web instance's requests."""

import logging
import os
from collections.abc import Iterator

from django.db import Error
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from jobs.models.delivery import OUTCOMES
from jobs.models.engine import Engine
from jobs.models.event import REASONS, Event
from jobs.models.metric import BUCKETS, Metric
from jobs.operators import statistics
from wanapi import limits
from wanapi.within import Threads

logger = logging.getLogger(__name__)

COUNTERS = {  # in jobs_metric: the name of its label, and what it counts
    "job_events": ("event", "What happened to jobs: claimed, adopted, lapsed, completed and so on."),
    "jobs_failed": ("reason", "Jobs that failed, by reason."),
    "webhook_tries": ("outcome", "Tries to deliver a webhook: delivered, refused, unreachable."),
    "gpu_busy_seconds": ("engine", "Time in which the engine's GPU rendered."),
    "gpu_starved_seconds": ("engine", "Time in which it did not render although jobs were waiting."),
    "gpu_idle_seconds": ("engine", "Time in which nothing was to be rendered."),
}
HISTOGRAMS = {
    "job_wait_seconds": "From the submit of a job to its start in ComfyUI.",
    "job_render_seconds": "From its start in ComfyUI to the finished file.",
    "job_publish_seconds": "From the finished file to the video in S3.",
    "webhook_delay_seconds": "From an event to the receiver's answer that it has it.",
}


PATIENCE = 5.0  # seconds: Prometheus itself gives up after ten
_threads = Threads(limits.METRICS_THREADS, "metrics")


def metrics() -> bytes:
    """In Prometheus' text format: what Postgres tells, if it does so in time, and what this web instance
    counted."""
    try:
        shared = _threads.within(PATIENCE, _shared)
    except (Error, TimeoutError) as error:  # also that tables are missing, before the migrations
        logger.warning("metrics: %s", str(error) or "Postgres does not answer in time")
        shared = []
    up = GaugeMetricFamily("wanapi_database_up", "Whether Postgres answered.", value=bool(shared))
    registry = CollectorRegistry()
    registry.register(Families([*shared, up]))
    return generate_latest(registry) + generate_latest(_own())


class Families(Collector):
    def __init__(self, families: list[Family]):
        self.families = families

    def collect(self) -> list[Family]:
        return self.families


def _shared() -> list[Family]:
    """Families from Postgres. Every web instance gives the same values, so rules must take the largest of
    them and not the sum."""
    return [*_now(), *_webhooks(), *_engines(), *_counted()]


def _own() -> CollectorRegistry:
    """What gunicorn's processes counted, each in a file; without gunicorn, this process."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


def _now() -> Iterator[Family]:
    queue = statistics.queue()
    states = GaugeMetricFamily("wanapi_jobs", "Unfinished jobs, by state.", labels=["state"])
    for state in ("queued", "rendering", "publishing"):
        states.add_metric([state], queue[state])
    yield states
    yield GaugeMetricFamily(
        "wanapi_jobs_impossible",
        "Queued jobs that no engine can render now: a model file, a node or the engine itself is missing.",
        value=sum(row["jobs"] for row in statistics.impossible()),
    )
    yield GaugeMetricFamily(
        "wanapi_oldest_queued_seconds",
        "Age of the oldest queued job; 0 if there is none.",
        value=queue["oldest_seconds"],
    )


def _webhooks() -> Iterator[Family]:
    found = statistics.webhooks()
    text = "Webhooks that are not delivered yet: due, or waiting for their next try."
    states = GaugeMetricFamily("wanapi_webhooks", text, labels=["state"])
    states.add_metric(["due"], found["due"])
    states.add_metric(["waiting"], found["waiting"])
    yield states
    yield GaugeMetricFamily(
        "wanapi_webhook_receivers_failing",
        "Hosts that took no webhook for an hour or longer although they were sent some.",
        value=found["failing"],
    )


def _engines() -> Iterator[Family]:
    ready = GaugeMetricFamily(
        "wanapi_engine_ready", "Whether the engine's ComfyUI answers and lacks nothing.", labels=["engine"]
    )
    answers = GaugeMetricFamily(
        "wanapi_engine_answers",
        "Whether its ComfyUI answers and can work, whatever it lacks.",
        labels=["engine"],
    )
    loaded = set(Engine.objects.loaded().values_list("name", flat=True))
    answering = set(Engine.objects.answering().values_list("name", flat=True))
    for name in Engine.objects.values_list("name", flat=True):
        ready.add_metric([name], name in loaded)
        answers.add_metric([name], name in answering)
    yield ready
    yield answers


def _counted() -> Iterator[Family]:
    values: dict[str, dict[str, float]] = {name: {} for name in (*COUNTERS, *HISTOGRAMS)}
    # These begin at 0. If a counter came with its first event, a rule about an increase would not see that.
    values["job_events"] = dict.fromkeys(Event.Kind.values, 0.0)
    values["jobs_failed"] = dict.fromkeys(REASONS, 0.0)
    values["webhook_tries"] = dict.fromkeys(OUTCOMES, 0.0)
    for name, label, value in Metric.objects.values_list("name", "label", "value"):
        values.setdefault(name, {})[label] = value  # a newer release may count more
    for name, (label_name, text) in COUNTERS.items():
        counter = CounterMetricFamily(f"wanapi_{name}", text, labels=[label_name])
        for label, value in sorted(values[name].items()):
            counter.add_metric([label], value)
        yield counter
    for name, text in HISTOGRAMS.items():
        yield _histogram(name, text, values[name])


def _histogram(name: str, text: str, values: dict[str, float]) -> HistogramMetricFamily:
    total, buckets = 0.0, []
    for bound in (*map(str, BUCKETS), "+Inf"):
        total += values.get(bound, 0)
        buckets.append((bound, total))
    return HistogramMetricFamily(f"wanapi_{name}", text, buckets=buckets, sum_value=values.get("sum", 0))
