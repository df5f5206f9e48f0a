"""What gateways send: the forms of json.v1, several of which a real city mixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from lifeline_stream.core.catalog import Channel
from lifeline_stream.core.model import BACKFILL, Block, Int64s, ReadingBatch
from lifeline_stream.fleet.simulation import Tick

BATCH_ROWS = 100
"""Readings that a gateway puts into one message."""
ALONE_EVERY = 8
"""Each so-many-th device sends its own messages, one per moment; its gateway only passes them on."""
WAVEFORM_DECIMALS = 4


class Outgoing(NamedTuple):
    """One message on its way to the broker.

    Attributes:
        gateway: number of the gateway that publishes it; its messages stay in order.
        counts: int64[d], its readings by domain; one that is sent a second time is not counted again.
    """

    gateway: int
    topic: str
    payload: bytes
    counts: Int64s


class _Columns(msgspec.Struct, omit_defaults=True):
    channels: list[str]
    ix: list[int]
    ts: list[int]
    values: list[float]
    sent: int
    backfill: bool = False


class _Single(msgspec.Struct, omit_defaults=True):
    ts: int
    values: dict[str, float]
    sent: int
    backfill: bool = False


class _Waveform(msgspec.Struct):
    channel: str
    t0: int
    period: float
    values: list[float]
    sent: int


_encode = msgspec.json.Encoder().encode


class Encoder:
    """Turns ticks into messages, gateway by gateway."""

    def __init__(self, channels: Sequence[Channel], domains: Sequence[str], *, alone: bool) -> None:
        """Index what is said about each channel.

        Args:
            channels: all that may report.
            domains: the columns of `Outgoing.counts`.
            alone: whether some devices send their own messages.
        """
        self._channels = {c.ix: c for c in channels}
        self._gateways = sorted({c.gateway for c in channels})
        self._n_domains = len(domains)
        devices = list(dict.fromkeys(c.device for c in channels))
        self._alone = {d: n for n, d in enumerate(devices) if alone and n % ALONE_EVERY == 0}
        n_ix = max((c.ix for c in channels), default=-1) + 1
        self._stream, self._domain = np.zeros(n_ix, np.int64), np.zeros(n_ix, np.int64)
        for c in channels:
            gateway = self._gateways.index(c.gateway)
            n = self._alone.get(c.device)
            self._stream[c.ix] = gateway * (len(devices) + 1) + (0 if n is None else n + 1)
            self._domain[c.ix] = domains.index(c.domain)

    def messages(self, tick: Tick, sent_ms: int) -> Iterator[Outgoing]:
        """All messages of a tick; those of one gateway follow each other."""
        for batch, counted in ((tick.batch, True), (tick.again, False)):
            backfill = (batch.quality & BACKFILL) != 0
            yield from self._batches(batch.take(~backfill), sent_ms, counted=counted, backfill=False)
            yield from self._batches(batch.take(backfill), sent_ms, counted=counted, backfill=True)
        for block in tick.blocks:
            yield self._waveform(block, sent_ms)

    def _batches(self, batch: ReadingBatch, sent_ms: int, *, counted: bool, backfill: bool) -> Iterator[Outgoing]:
        stream = self._stream[batch.channel_ix]
        order = np.argsort(stream, kind="stable")
        batch, stream = batch.take(order), stream[order]
        ends = [0, *(np.flatnonzero(np.diff(stream)) + 1).tolist(), len(batch)] if len(batch) else []
        for first, last in pairwise(ends):
            alone = self._channels[int(batch.channel_ix[first])].device in self._alone
            for rows in _moments(batch.ts_us, first, last) if alone else _chunks(first, last):
                part = batch.take(rows)
                form = self._single if alone else self._columns
                yield self._outgoing(part, form(part, sent_ms, backfill=backfill), counted=counted)

    def _outgoing(self, part: ReadingBatch, form: msgspec.Struct, *, counted: bool) -> Outgoing:
        counts = np.bincount(self._domain[part.channel_ix], minlength=self._n_domains) * int(counted)
        return self._addressed(self._channels[int(part.channel_ix[0])], form, counts)

    def _addressed(self, channel: Channel, form: msgspec.Struct, counts: Int64s) -> Outgoing:
        topic = f"lifeline/v1/{channel.gateway}/{channel.device}/up"
        return Outgoing(self._gateways.index(channel.gateway), topic, _encode(form), counts)

    def _columns(self, part: ReadingBatch, sent_ms: int, *, backfill: bool) -> _Columns:
        known, ix = np.unique(part.channel_ix, return_inverse=True)
        channels = [self._channels[i] for i in known.tolist()]
        names = [f"{c.device}/{metric(c)}" for c in channels]
        return _Columns(names, ix.tolist(), (part.ts_us // 1000).tolist(), part.value.tolist(), sent_ms, backfill)

    def _single(self, part: ReadingBatch, sent_ms: int, *, backfill: bool) -> _Single:
        names = [metric(self._channels[i]) for i in part.channel_ix.tolist()]
        values = dict(zip(names, part.value.tolist(), strict=True))
        return _Single(int(part.ts_us[0]) // 1000, values, sent_ms, backfill)

    def _waveform(self, block: Block, sent_ms: int) -> Outgoing:
        channel = self._channels[block.channel_ix]
        counts = np.zeros(self._n_domains, np.int64)
        counts[self._domain[channel.ix]] = len(block.samples)
        values = np.round(block.samples.astype(np.float64), WAVEFORM_DECIMALS).tolist()
        form = _Waveform(metric(channel), block.t0_us // 1000, 1000.0 / block.rate_hz, values, sent_ms)
        return self._addressed(channel, form, counts)


def metric(channel: Channel) -> str:
    """The name by which a gateway calls a channel of a device: its code, or else the id of its sensor type."""
    return channel.code or channel.sensor.partition(".")[2]


def _chunks(first: int, last: int) -> Iterator[slice]:
    for start in range(first, last, BATCH_ROWS):
        yield slice(start, min(start + BATCH_ROWS, last))


def _moments(ts_us: Int64s, first: int, last: int) -> Iterator[slice]:
    """Rows of the same time, of rows in time order."""
    ends = [first, *(np.flatnonzero(np.diff(ts_us[first:last])) + first + 1).tolist(), last]
    return (slice(*pair) for pair in pairwise(ends))
