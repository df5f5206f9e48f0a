"""The commit group: everything that one transaction writes, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import NamedTuple, TypeAlias

import numpy as np

from lifeline_stream.core.model import LATE, RESTARTED, Block, ConditionEvent, Int32s, Int64s, ReadingBatch, Reject

SHARD_SPAN = 1 << 40
"""Group numbers of one shard: the stored `group_seq` is shard_no × SHARD_SPAN + n."""


@dataclass(slots=True)
class OutboxItem:
    """What people must be told of one event.

    Attributes:
        id: stable across replays; the receiver's key against doubles.
        alarm_id: alarm that it is about.
        at_us: event time.
        held: the reading was old when it came: told only if the alarm still holds once its channel is current.
        body: as it will be sent.
        delivered: it has been sent already, straight from memory.
    """

    id: str
    alarm_id: str
    at_us: int
    held: bool
    body: bytes
    delivered: bool = False


class Rule(NamedTuple):
    """What an alarm takes over from the detector that raised it."""

    class_: str
    why: str
    source: str
    action: str
    pack_hash: str


RuleOf: TypeAlias = Callable[[str, str], Rule]
"""(declaration hash, detector id) → its rule."""

OnLate: TypeAlias = Callable[[ReadingBatch], tuple[list[ConditionEvent], list[OutboxItem]]]
"""The history pass: late readings that are new to the store, in order of (channel, time) → what they reveal."""


@dataclass(slots=True)
class Committed:
    """What came of a group.

    Attributes:
        n_stored: readings and samples stored.
        by_channel: int64[k], the same by channel index; k is one above the highest that was stored.
        n_duplicates: readings and blocks that the store already had, equal.
        conflicts: those that it had with another value.
        refused: rejects for what the database would not take.
        events: the group's own and those of the history pass.
    """

    n_stored: int = 0
    by_channel: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    n_duplicates: int = 0
    conflicts: list[Reject] = field(default_factory=list)
    refused: list[Reject] = field(default_factory=list)
    events: list[ConditionEvent] = field(default_factory=list)


@dataclass(slots=True)
class CommitGroup:
    """One group. It may be committed again after a failure: the same content, the same outcome.

    Attributes:
        seq: n, consecutive within the shard.
        now_us: the engine's clock of this group.
        watch_from_us: since when silence counts, or -1.
        declaration_hash: of the packs and registry that the engine ran with.
        batch: live and late readings together, in order of arrival.
        gateway_lag_ms: int32[n], beside `batch`.
        blocks: waveforms, live and late together.
        rejects: what was not taken.
        events: what the engine found.
        outbox: what people must be told.
        state: engine state after this group; read only after the history pass, which may set it.
        token: tells this content from another group of the same number.
    """

    seq: int
    now_us: int
    watch_from_us: int
    declaration_hash: str
    batch: ReadingBatch
    gateway_lag_ms: Int32s
    blocks: list[Block] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    events: list[ConditionEvent] = field(default_factory=list)
    outbox: list[OutboxItem] = field(default_factory=list)
    state: bytes | None = None
    token: str = field(default_factory=lambda: token_hex(8))
    _late: tuple[list[ConditionEvent], list[OutboxItem]] | None = field(default=None, repr=False, compare=False)
    outcome: Committed | None = field(default=None, repr=False, compare=False)
    """Of the last attempt, whether or not its commit was seen to succeed."""

    def look_back(self, on_late: OnLate, late: ReadingBatch) -> tuple[list[ConditionEvent], list[OutboxItem]]:
        """Run the history pass, once however often the group is tried."""
        if self._late is None:
            self._late = on_late(late)
        return self._late

    @property
    def looked_back(self) -> tuple[list[ConditionEvent], list[OutboxItem]] | None:
        """What the history pass found, or None before it ran; the spool keeps it, as the pass is not to run twice."""
        return self._late

    def start_over(self) -> None:
        """After a crash nobody has seen this group: its history pass runs again."""
        self._late = self.outcome = None

    def renumbered(self, seq: int) -> CommitGroup:
        """The same content under another number, all of it late: the database went on without it.

        Readings and blocks are compared with the store, and the history pass finds what there is to find in them.
        """
        quality = ((self.batch.quality & ~np.uint8(RESTARTED)) | LATE).astype(np.uint8)
        blocks = [replace(block, quality=(block.quality & ~RESTARTED) | LATE) for block in self.blocks]
        batch = replace(self.batch, quality=quality)
        emptied = replace(self, events=[], outbox=[], state=None, _late=None, outcome=None)
        return replace(emptied, seq=seq, batch=batch, blocks=blocks)
