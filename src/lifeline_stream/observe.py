"""What the service says of itself: metrics, health and logs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lifeline_stream.core.model import ConditionEvent, Reject

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAG_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


class Metrics:
    """Every metric of one process, on a registry of its own."""

    def __init__(self) -> None:
        """Register them all, so that each is there from the first scrape."""
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"lifeline_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"lifeline_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(f"lifeline_{name}", text, buckets=buckets, registry=registry)

        self.messages = counter("messages_total", "Messages taken from the source.")
        self.bytes = counter("message_bytes_total", "Payload bytes taken from the source.")
        self.readings = counter("readings_total", "Readings and samples normalised, by domain.", "domain")
        self.late = counter("late_readings_total", "Readings not newer than their channel's newest.")
        self.duplicates = counter("duplicate_readings_total", "Readings that were there already and equal.", "found")
        self.rejects = counter(
            "rejected_readings_total", "Readings that went to the dead letters, by reason.", "reason"
        )
        self.restarts = counter("clock_restarts_total", "Channels whose newest was set back after a clock was ahead.")
        self.shed = counter("shed_messages_total", "QoS 0 messages dropped under pressure.")
        self.lag = histogram("event_lag_seconds", "Received time less the newest event time of a message.", _LAG_S)
        self.engine = histogram("engine_seconds", "Detection of one commit group.")
        self.commit = histogram("commit_seconds", "Commit of one group.")
        self.commit_failures = counter("commit_failures_total", "Commits that failed and were tried again.")
        self.stored = counter("stored_readings_total", "Readings and samples committed, by domain.", "domain")
        self.acknowledged = counter("acknowledged_messages_total", "Messages acknowledged to the source.")
        self.stale_acks = counter("stale_acknowledgements_total", "Acknowledgements whose connection was gone.")
        self.reconnects = counter("reconnects_total", "Connections made again, by peer.", "peer")
        self.events = counter(
            "alarm_events_total", "Condition events by kind, class and severity.", "kind", "class", "severity"
        )
        self.deliveries = counter("deliveries_total", "Webhook attempts by result.", "result")
        self.state_seconds = histogram("state_save_seconds", "Taking the engine's state.")
        self.replayed = gauge("replayed_groups", "Groups fed again at the last start.")
        self.groups = gauge("uncommitted_groups", "Groups that detection has passed and the database has not.")
        self.held_messages = gauge("unacknowledged_messages", "Messages taken and not yet acknowledged.")
        self.held_rows = gauge("uncommitted_rows", "Readings taken and not yet committed.")
        self.oldest = gauge("oldest_unacknowledged_seconds", "Age of the oldest message that is not acknowledged.")
        self.spool_bytes = gauge("spool_bytes", "Bytes in the spool that wait for the database.")
        self.active = gauge(
            "active_alarms", "Alarms whose condition holds, by domain and severity.", "domain", "severity"
        )
        self.channels = gauge("channels", "Channels of the registry, by domain.", "domain")
        self.reporting = gauge(
            "reporting_channels", "Channels heard of within three reporting intervals, by domain.", "domain"
        )
        self.outbox_due = gauge("outbox_due", "Items to be delivered.")
        self.outbox_held = gauge("outbox_held", "Items that wait for their channel to be current.")
        self.outbox_oldest = gauge("outbox_oldest_seconds", "Age of the oldest item to be delivered.")
        self.ready = gauge("ready", "1 when the service takes readings, by condition.", "condition")
        self.group_seq = gauge("group_seq", "Number of the last committed group.")
        self._oldest_since: Callable[[], float | None] = lambda: None
        self.oldest.set_function(self._oldest_age_s)

    def watch_oldest(self, since_s: Callable[[], float | None]) -> None:
        """Where to ask since when, by the monotonic clock, the oldest message waits."""
        self._oldest_since = since_s

    def _oldest_age_s(self) -> float:
        since_s = self._oldest_since()
        return 0.0 if since_s is None else time.monotonic() - since_s

    def rejected(self, rejects: list[Reject]) -> None:
        """Count rejects by reason."""
        for reject in rejects:
            self.rejects.labels(reject.reason.value).inc(reject.n_readings)

    def noticed(self, events: list[ConditionEvent], class_of: Callable[[str], str]) -> None:
        """Count condition events."""
        for event in events:
            self.events.labels(event.kind.value, class_of(event.detector), str(event.severity)).inc()

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self.registry)


@dataclass(slots=True)
class Condition:
    """One thing that must hold for the service to be ready."""

    holds: bool
    since_s: float
    detail: str = ""


@dataclass(slots=True)
class Health:
    """Whether the process lives and whether it takes readings; every condition must be stated to hold."""

    metrics: Metrics
    conditions: dict[str, Condition] = field(default_factory=dict)

    def expect(self, *names: str) -> None:
        """Name conditions that don't hold yet."""
        for name in names:
            self.state(name, holds=False, detail="not yet")

    def state(self, name: str, *, holds: bool, detail: str = "") -> None:
        """Say whether a condition holds."""
        known = self.conditions.get(name)
        if known is None or known.holds != holds:
            self.conditions[name] = Condition(holds, time.time(), detail)
            self.metrics.ready.labels(name).set(holds)
        else:
            known.detail = detail

    @property
    def ready(self) -> bool:
        """Every condition holds."""
        return bool(self.conditions) and all(c.holds for c in self.conditions.values())


def configure_logging(level: str, *, json: bool, file: Path | None = None) -> None:
    """Events with fields to stderr, or to a file: JSON lines, or for a person."""
    number = logging.getLevelNamesMapping()[level.upper()]
    out = file.open("a", encoding="utf-8", buffering=1) if file else sys.stderr
    logging.basicConfig(level=logging.WARNING, stream=out, format="%(name)s %(message)s", force=True)
    logging.getLogger("mqtt").setLevel(logging.ERROR)  # aiomqtt counts pending calls at warning level
    colours = file is None and sys.stderr.isatty()
    render = (
        structlog.processors.JSONRenderer(ensure_ascii=False) if json else structlog.dev.ConsoleRenderer(colors=colours)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
