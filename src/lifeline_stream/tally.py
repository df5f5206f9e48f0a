"""What a pipeline tells its metrics, by domain where the catalog knows one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter as PrometheusCounter

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.detection import Detection
from lifeline_stream.core.model import ConditionEvent, Severity
from lifeline_stream.core.normalize import Normalized
from lifeline_stream.observe import Metrics
from lifeline_stream.sources import Message
from lifeline_stream.store.group import CommitGroup, Committed

ClassOf: TypeAlias = Callable[[str], str]
"""Detector id → `hazard` or `device`."""

OVERDUE_INTERVALS, OVERDUE_S = 3, 10.0
"""A channel counts as reporting for so many of its intervals after its newest reading, and no less than so long."""


class Tally:
    """Counts by channel while readings pass, and by domain when a group closes: a label costs more than a reading."""

    def __init__(self, metrics: Metrics, catalog: Catalog, class_of: ClassOf) -> None:
        """Index the catalog."""
        self._metrics = metrics
        self._class_of = class_of
        self._domains = sorted({channel.domain for channel in catalog.channels})
        self._ix = np.array([channel.ix for channel in catalog.channels], np.int64)
        self._domain_of = np.zeros(catalog.n_ix, np.int64)
        self._domain_of[self._ix] = [self._domains.index(channel.domain) for channel in catalog.channels]
        overdue_s = [max(OVERDUE_INTERVALS * channel.every_s, OVERDUE_S) for channel in catalog.channels]
        self._overdue_us = np.array(overdue_s) * 1e6
        self._n_taken = np.zeros(catalog.n_ix, np.int64)
        for domain, n in zip(self._domains, self._by_domain(self._ix), strict=True):
            metrics.channels.labels(domain).set(n)

    def took(self, message: Message, found: Normalized) -> None:
        """One message was taken and normalised."""
        metrics, batch = self._metrics, found.batch
        metrics.messages.inc()
        metrics.bytes.inc(len(message.payload))
        metrics.rejected(found.rejects)
        if found.n_duplicates:
            metrics.duplicates.labels("on arrival").inc(found.n_duplicates)
        if found.n_restarted:
            metrics.restarts.inc(found.n_restarted)
        if len(batch):
            metrics.lag.observe(max(0.0, (message.received_us - int(batch.ts_us[-1])) / 1e6))
            metrics.late.inc(int(batch.late.sum()))
            np.add.at(self._n_taken, batch.channel_ix, 1)
        for block in found.blocks:
            self._n_taken[block.channel_ix] += len(block.samples)

    def closed(self, events: list[ConditionEvent]) -> None:
        """A group has passed detection."""
        self._count(self._metrics.readings, self._n_taken)
        self._n_taken[:] = 0
        self._metrics.noticed(events, self._class_of)

    def committed(self, group: CommitGroup, done: Committed) -> None:
        """A group is in the database."""
        metrics = self._metrics
        self._count(metrics.stored, done.by_channel)
        metrics.duplicates.labels("in the store").inc(done.n_duplicates)
        metrics.rejected([*done.conflicts, *done.refused])
        metrics.noticed([event for event in done.events if event.late], self._class_of)
        metrics.group_seq.set(group.seq)

    def look(self, detection: Detection, now_us: int) -> None:
        """Bring the gauges up to date: which channels report, and which alarms hold."""
        since_us = now_us - detection.normalizer.newest_us()[self._ix]
        reporting = self._by_domain(self._ix[since_us <= self._overdue_us])
        holding = Counter((self._domain_of[c.channel_ix], c.severity) for c in detection.conditions())
        for d, domain in enumerate(self._domains):
            self._metrics.reporting.labels(domain).set(reporting[d])
            for severity in Severity:
                self._metrics.active.labels(domain, severity.name.lower()).set(holding[d, severity])

    def _by_domain(self, channel_ix: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.bincount(self._domain_of[channel_ix], minlength=len(self._domains))

    def _count(self, counter: PrometheusCounter, n_by_channel: npt.NDArray[np.int64]) -> None:
        """Add numbers by channel, of the first channels or all, to a counter by domain."""
        domain_of = self._domain_of[: len(n_by_channel)]
        by_domain = np.bincount(domain_of, weights=n_by_channel, minlength=len(self._domains))
        for domain, n in zip(self._domains, by_domain, strict=True):
            counter.labels(domain).inc(float(n))
