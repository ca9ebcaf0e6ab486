"""What Prometheus may know.

Knows: counts, durations, routes, statuses, verdict labels.
Never knows: texts, model names as callers typed them, keys.
"""

from collections.abc import Callable, Iterator
from typing import ClassVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from guardhouse.engine.engine import EngineStats

NOTED_AT_MOST = 64  # requests that are counted together
LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """One server's metrics, in a registry of their own: two servers in one process do not mix."""

    def __init__(self, engine_stats: Callable[[], EngineStats | None]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "guardhouse_requests", "HTTP requests answered", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "guardhouse_request_seconds",
            "Seconds from the request's first byte to the answer's last",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        verdicts = Counter("guardhouse_verdicts", "Texts judged", ["verdict"], registry=self._registry)
        self._verdicts = (verdicts.labels("safe"), verdicts.labels("unsafe"))
        self._num_noted = [0, 0]  # of both
        self._noted: list[tuple[str, int, float]] = []  # not counted yet: that is done for many at once
        self._registry.register(EngineCollector(engine_stats))

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        self._noted.append((route, status, seconds))
        if len(self._noted) >= NOTED_AT_MOST:
            self._count_noted()

    def observe_verdict(self, flagged: bool) -> None:
        self._num_noted[flagged] += 1

    def exposition(self) -> bytes:
        """The text format that a Prometheus server scrapes."""
        self._count_noted()
        return generate_latest(self._registry)

    def _count_noted(self) -> None:
        noted, self._noted = self._noted, []
        for route, status, seconds in noted:
            self._requests.labels(route, str(status)).inc()
            self._seconds.labels(route).observe(seconds)
        numbers, self._num_noted = self._num_noted, [0, 0]
        for counter, number in zip(self._verdicts, numbers, strict=True):
            counter.inc(number)


class EngineCollector(Collector):
    """Reads the engine's own counters when scraped; nothing is counted twice."""

    GAUGES: ClassVar = {  # metric name after the prefix: (field of EngineStats, help)
        "running": ("num_running", "Sequences in the running batch"),
        "waiting": ("num_waiting", "Requests in the queue"),
        "free_blocks": ("num_free_blocks", "Free blocks of the KV cache"),
        "blocks": ("num_blocks", "Blocks of the KV cache"),
        "pinned_blocks": ("num_pinned_blocks", "Blocks held by pinned policy prefixes"),
    }
    COUNTERS: ClassVar = {
        "prompt_tokens": ("total_prompt_tokens", "Prompt tokens processed"),
        "cached_tokens": ("total_cached_tokens", "Prompt tokens found in the KV cache"),
        "generated_tokens": ("total_generated_tokens", "Tokens generated"),
        "failed_steps": ("num_failed_steps", "Steps of the engine that failed"),
        "preemptions": ("num_preemptions", "Sequences put back to make room"),
    }

    def __init__(self, engine_stats: Callable[[], EngineStats | None]) -> None:
        self._engine_stats = engine_stats

    def collect(self) -> Iterator[Metric]:
        stats = self._engine_stats()
        if stats is None:  # the model is still loading
            return
        for name, (field, text) in self.GAUGES.items():
            yield GaugeMetricFamily(f"guardhouse_engine_{name}", text, value=getattr(stats, field))
        for name, (field, text) in self.COUNTERS.items():
            yield CounterMetricFamily(f"guardhouse_engine_{name}", text, value=getattr(stats, field))
