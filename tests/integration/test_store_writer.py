"""One group, one transaction: what is stored, compared, refused and entered in the book."""

from __future__ import annotations

import json

import numpy as np
import pytest

from integration.store_groups import (
    T0_US,
    S,
    batch_of,
    block_of,
    event_of,
    group_of,
    item_of,
    nothing_late,
    rows_of,
    settle_city,
    stored,
    writer_of,
)
from lifeline_stream.core.model import BACKFILL, LATE, RESTARTED, EventKind, ReadingBatch, Reject, RejectReason
from lifeline_stream.errors import FatalError
from lifeline_stream.store.database import connected
from lifeline_stream.store.writer import CommitGroup, Committed, ShardWriter


async def committed(dsn: str, *groups: CommitGroup) -> list[Committed]:
    """Write groups of a new shard, in order."""
    writer = writer_of(dsn)
    await writer.open()
    outcomes = [await writer.commit(group, nothing_late) for group in groups]
    await writer.close()
    return outcomes


async def test_a_group_is_stored_with_its_lags_clock_and_number(any_store_dsn: str) -> None:
    rows = [(2, 5, 2.5), (1, 7, 1.5, 6), (1, 6, float("nan"), 9)]
    (outcome,) = await committed(any_store_dsn, group_of(1, rows, watch_from_us=7))
    assert outcome.n_stored == 3
    columns = "channel, us_of(ts) - $1, value, quality, gateway_lag_ms, group_seq % (1::bigint << 40)"
    query = f"SELECT {columns} FROM reading ORDER BY ctid"  # noqa: S608 - our own text
    found = await rows_of(any_store_dsn, query, T0_US)
    assert found[0][:2] == (1, 6 * S)
    assert np.isnan(found[0][2])
    assert found[0][3:] == (9, 2, 1)
    assert found[1:] == [(1, 7 * S, 1.5, 6, 1, 1), (2, 5 * S, 2.5, 0, 0, 1)]
    group = await rows_of(
        any_store_dsn,
        "SELECT now_us, watch_from_us, declaration_hash, n_readings, n_samples, from_us, to_us FROM commit_group",
    )
    assert group == [(T0_US + S, 7, "d1", 3, 0, T0_US + 5 * S, T0_US + 7 * S)]


async def test_late_rows_are_compared_and_only_new_ones_stored(any_store_dsn: str) -> None:
    first = group_of(1, [(0, 10, 1.0), (0, 20, 2.0), (1, 10, float("nan"), 9)])
    second = group_of(
        2,
        [
            (0, 30, 3.0),
            (0, 10, 1.0, LATE),  # equal: a duplicate
            (0, 20, 9.0, LATE),  # another value: a conflict
            (0, 30, 3.0, LATE),  # equal to a live row of this very group
            (0, 15, 1.5, LATE | BACKFILL),  # new
            (0, 15, 1.5, LATE),  # equal to the one before
            (0, 15, 1.6, LATE),  # in conflict with it
            (1, 10, float("nan"), LATE | 9),  # nothing equals nothing
            (0, 25, 2.5, RESTARTED),  # live, new
            (0, 20, 2.0, RESTARTED),  # live, a duplicate
        ],
    )
    seen: list[ReadingBatch] = []

    def on_late(late: ReadingBatch) -> tuple[list, list]:
        seen.append(late)
        return [], []

    writer = writer_of(any_store_dsn)
    await writer.open()
    await writer.commit(first, nothing_late)
    outcome = await writer.commit(second, on_late)
    await writer.close()

    assert (outcome.n_stored, outcome.n_duplicates) == (3, 5)
    assert [r.reason for r in outcome.conflicts] == [RejectReason.CONFLICT] * 2
    assert [json.loads(r.payload)[0]["value"] for r in outcome.conflicts] == [9.0, 1.6]
    found = await stored(any_store_dsn)
    assert found[:5] == [(0, 10, 1.0), (0, 15, 1.5), (0, 20, 2.0), (0, 25, 2.5), (0, 30, 3.0)]
    assert len(found) == 6
    assert [(list(b.ts_us), list(b.quality)) for b in seen] == [([T0_US + 15 * S], [LATE | BACKFILL])]
    assert await rows_of(any_store_dsn, "SELECT reason, count(*)::int FROM reject GROUP BY 1") == [("conflict", 2)]


async def test_blocks_are_compared_by_channel_start_and_length(any_store_dsn: str) -> None:
    live = [block_of(1, 10, [1, 2, 3]), block_of(0, 10, [4, 5])]
    late = [
        block_of(1, 10, [1, 2, 3], LATE),  # a duplicate
        block_of(0, 10, [4, 6], LATE),  # a conflict
        block_of(1, 10, [1, 2], LATE),  # another length: new
        block_of(2, 5, [7, float("nan")], LATE),  # new
        block_of(2, 5, [7, float("nan")], LATE),  # equal to the one before
    ]
    seen: list[ReadingBatch] = []

    def on_late(batch: ReadingBatch) -> tuple[list, list]:
        seen.append(batch)
        return [], []

    writer = writer_of(any_store_dsn)
    await writer.open()
    first = await writer.commit(group_of(1, [(3, 1, 1.0)], blocks=live), nothing_late)
    second = await writer.commit(group_of(2, blocks=late), on_late)
    await writer.close()

    assert (first.n_stored, second.n_stored, second.n_duplicates) == (6, 4, 2)
    assert [r.reason for r in second.conflicts] == [RejectReason.CONFLICT]
    rows = await rows_of(any_store_dsn, "SELECT channel, n, rate_hz, samples[1] FROM waveform ORDER BY channel, n")
    assert rows == [(0, 2, 100.0, 4.0), (1, 2, 100.0, 1.0), (1, 3, 100.0, 1.0), (2, 2, 100.0, 7.0)]
    assert list(seen[0].channel_ix) == [1, 1, 2, 2]
    assert list(seen[0].ts_us - T0_US) == [10 * S, 10 * S + 10_000, 5 * S, 5 * S + 10_000]


async def test_late_alarms_of_the_history_pass_are_written_with_the_group(store_dsn: str) -> None:
    await settle_city(store_dsn)
    found = event_of(EventKind.RAISED, 12, late=True)
    group = group_of(1, [(0, 12, 9.0, LATE)])

    def on_late(_: ReadingBatch) -> tuple[list, list]:
        group.state = b"with history"
        return [found], [item_of("o1", found, held=True)]

    writer = writer_of(store_dsn)
    await writer.open()
    outcome = await writer.commit(group, on_late)
    await writer.close()
    assert outcome.events == [found]
    assert await rows_of(store_dsn, "SELECT alarm_id, found_late, active FROM alarm_v") == [
        (found.alarm_id, True, True)
    ]
    assert await rows_of(store_dsn, "SELECT id, state FROM outbox") == [("o1", "held")]
    assert await rows_of(store_dsn, "SELECT state FROM engine_state") == [(b"with history",)]


async def test_a_condition_becomes_one_alarm_that_rises_falls_and_clears(store_dsn: str) -> None:
    await settle_city(store_dsn)
    raised = event_of(EventKind.RAISED, 20, severity=2)
    groups = [
        group_of(1, events=[raised]),
        group_of(2, events=[event_of(EventKind.ESCALATED, 30, severity=4)]),
        group_of(3, events=[event_of(EventKind.DEESCALATED, 40, severity=3)]),
        group_of(4, events=[event_of(EventKind.CLEARED, 50, severity=3)]),
    ]
    seen = []
    writer = writer_of(store_dsn)
    await writer.open()
    for group in groups:
        await writer.commit(group, nothing_late)
        seen += await rows_of(
            store_dsn, "SELECT severity, peak_severity, active, value, limit_value, cleared_at IS NULL FROM alarm_v"
        )
    await writer.close()
    assert seen == [
        (2, 2, True, 20.0, 10.0, True),
        (4, 4, True, 40.0, 20.0, True),
        (3, 4, True, 40.0, 20.0, True),
        (3, 4, False, 40.0, 20.0, False),
    ]
    times = "us_of(onset), us_of(raised_at), us_of(cleared_at)"
    query = f"SELECT channel, asset, county, domain, class, why, source, action, {times} FROM alarm_v"  # noqa: S608
    assert await rows_of(store_dsn, query) == [
        ("c0", "A1", "north", "toy", "hazard", "why it matters", "a standard", "what to do",
         T0_US + 10 * S, T0_US + 20 * S, T0_US + 50 * S)
    ]  # fmt: skip
    kinds = await rows_of(store_dsn, "SELECT kind FROM alarm_event_v ORDER BY at")
    assert kinds == [("raised",), ("escalated",), ("deescalated",), ("cleared",)]


async def test_events_of_one_group_fold_into_the_same_book(store_dsn: str) -> None:
    await settle_city(store_dsn)
    events = [
        event_of(EventKind.RAISED, 20, severity=2),
        event_of(EventKind.ESCALATED, 30, severity=4),
        event_of(EventKind.CLEARED, 50, severity=4),
        event_of(EventKind.RAISED, 70, severity=1, onset=60),
    ]
    await committed(store_dsn, group_of(1, events=events))
    query = "SELECT severity, peak_severity, active, withdrawn FROM alarm_v ORDER BY raised_at"
    assert await rows_of(store_dsn, query) == [(4, 4, False, False), (1, 1, True, False)]


async def test_an_event_entered_twice_does_nothing(store_dsn: str) -> None:
    await settle_city(store_dsn)
    raised, cleared = event_of(EventKind.RAISED, 20), event_of(EventKind.CLEARED, 50)
    await committed(store_dsn, group_of(1, events=[raised, cleared]), group_of(2, events=[raised]))
    assert await rows_of(store_dsn, "SELECT active FROM alarm_v") == [(False,)]
    assert await rows_of(store_dsn, "SELECT count(*)::int FROM alarm_event") == [(2,)]


async def test_late_events_never_change_a_present_alarm(store_dsn: str) -> None:
    await settle_city(store_dsn)
    late_clear = event_of(EventKind.CLEARED, 15, late=True)
    await committed(store_dsn, group_of(1, events=[event_of(EventKind.RAISED, 20)]), group_of(2, events=[late_clear]))
    assert await rows_of(store_dsn, "SELECT active, cleared_at FROM alarm_v") == [(True, None)]


async def test_an_alarm_whose_engine_started_anew_is_superseded(store_dsn: str) -> None:
    await settle_city(store_dsn)
    again = event_of(EventKind.RAISED, 95, onset=90)
    await committed(store_dsn, group_of(1, events=[event_of(EventKind.RAISED, 20)]), group_of(2, events=[again]))
    query = "SELECT active, withdrawn, alarm_id = $1 FROM alarm_v ORDER BY raised_at"
    assert await rows_of(store_dsn, query, again.alarm_id) == [(False, True, False), (True, False, True)]
    assert await rows_of(store_dsn, "SELECT kind FROM alarm_event ORDER BY at, kind") == [
        ("raised",), ("raised",), ("withdrawn",)
    ]  # fmt: skip


async def test_trial_events_stay_out_of_the_book(store_dsn: str) -> None:
    await committed(store_dsn, group_of(1, events=[event_of(EventKind.RAISED, 20, trial=True)]))
    assert await rows_of(store_dsn, "SELECT detector, kind FROM trial_event") == [("toy.level.high", "raised")]
    assert await rows_of(store_dsn, "SELECT count(*)::int FROM alarm") == [(0,)]


async def test_rejects_are_cut_and_cleaned(store_dsn: str) -> None:
    reject = Reject(RejectReason.MALFORMED, "NUL \0 and half a pair \ud800", b"\0" * 70_000, "topic/\0", 3)
    await committed(store_dsn, group_of(1, rejects=[reject]))
    query = "SELECT reason, detail, source, length(payload), n_readings, shard FROM reject_v"
    assert await rows_of(store_dsn, query) == [("malformed", "NUL � and half a pair ?", "topic/�", 65_536, 3, "s1")]


@pytest.mark.parametrize("n", [1, 7, 64])
async def test_a_row_that_the_database_refuses_becomes_a_reject_and_the_rest_commits(
    any_store_dsn: str, n: int
) -> None:
    async with connected(any_store_dsn) as connection:
        await connection.execute("ALTER TABLE reading ADD CHECK (value <> 666)")
    rows = [(i % 3, i, float(i)) for i in range(n)]
    bad = {0, n // 2, n - 1}
    poisoned = [(c, s, 666.0 if s in bad else v) for c, s, v in rows]
    event = event_of(EventKind.RAISED, 20)
    calls = 0

    def on_late(_: ReadingBatch) -> tuple[list, list]:
        nonlocal calls
        calls += 1
        return [], []

    writer = writer_of(any_store_dsn)
    await writer.open()
    outcome = await writer.commit(group_of(1, poisoned, events=[event]), on_late)
    after = await writer.commit(group_of(2, [(9, 1, 1.0)]), nothing_late)
    await writer.close()
    assert outcome.n_stored == n - len(bad)
    assert (after.n_stored, calls) == (1, 1)
    assert {r.reason for r in outcome.refused} == {RejectReason.STORE_REFUSED}
    payloads = await rows_of(any_store_dsn, "SELECT payload FROM reject")
    assert sorted(json.loads(p)[0]["ts_us"] for (p,) in payloads) == [T0_US + s * S for s in sorted(bad)]
    assert await rows_of(any_store_dsn, "SELECT count(*)::int FROM alarm") == [(1,)]


async def test_a_time_that_the_database_cannot_hold_is_refused_live_late_and_in_events(store_dsn: str) -> None:
    beyond = batch_of([(0, 1, 1.0), (0, 2, 2.0), (1, 1, 3.0, LATE), (1, 2, 4.0, LATE)])
    beyond.ts_us[[1, 3]] = -(2**62)
    group = group_of(
        1, events=[event_of(EventKind.RAISED, 20, onset_us=-(2**62)), event_of(EventKind.RAISED, 20, channel_ix=1)]
    )
    group.batch, group.gateway_lag_ms = beyond, np.zeros(4, np.int32)
    block = block_of(2, 1, [1.0])
    group.blocks = [block, type(block)(3, -(2**62), 100.0, block.samples)]
    (outcome,) = await committed(store_dsn, group)
    assert outcome.n_stored == 3
    assert len(outcome.refused) == 4
    assert await stored(store_dsn) == [(0, 1, 1.0), (1, 1, 3.0)]
    assert await rows_of(store_dsn, "SELECT channel FROM alarm") == [(1,)]


async def test_when_all_rows_are_refused_none_is_lost_and_the_stream_goes_on(store_dsn: str) -> None:
    async with connected(store_dsn) as connection:
        await connection.execute("ALTER TABLE reading ADD CHECK (value < 0)")
    rows = [(0, i, float(i)) for i in range(3000)]
    (outcome,) = await committed(store_dsn, group_of(1, rows))
    assert outcome.n_stored == 0
    assert sum(r.n_readings for r in outcome.refused) == 3000
    payloads = await rows_of(store_dsn, "SELECT payload FROM reject")
    kept = sorted(row["value"] for (p,) in payloads for row in json.loads(p))
    assert kept == [v for _, _, v in rows]


async def test_a_group_out_of_order_is_fatal(store_dsn: str) -> None:
    writer: ShardWriter = writer_of(store_dsn)
    await writer.open()
    with pytest.raises(FatalError, match="can't follow"):
        await writer.commit(group_of(2, [(0, 1, 1.0)]), nothing_late)
    await writer.close()
    assert await stored(store_dsn) == []


async def test_shards_number_their_groups_apart(store_dsn: str) -> None:
    for shard in ("east", "west"):
        writer = writer_of(store_dsn, shard)
        await writer.open()
        await writer.commit(group_of(1, [(0, 1, 1.0)]), nothing_late)
        await writer.close()
    numbers = await rows_of(store_dsn, "SELECT shard, group_seq FROM commit_group ORDER BY shard")
    shard_no = dict(await rows_of(store_dsn, "SELECT shard, shard_no FROM shard_state"))
    assert numbers == [(shard, shard_no[shard] * 2**40 + 1) for shard in ("east", "west")]
    assert shard_no["east"] != shard_no["west"]


async def test_only_the_two_newest_states_are_kept(store_dsn: str) -> None:
    await committed(store_dsn, *(group_of(n, state=b"%d" % n) for n in range(1, 5)))
    assert await rows_of(store_dsn, "SELECT state FROM engine_state ORDER BY group_seq") == [(b"3",), (b"4",)]
