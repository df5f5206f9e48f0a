"""The schema's second level on the real extension: what it takes over, compresses, rolls up and lets go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration.store_groups import RULE, event_of, item_of, settle_city
from integration.timescale_server import PRESENT, SERVERS
from lifeline_stream.core.model import EventKind
from lifeline_stream.store import book, migrations, queries, recovery, sql
from lifeline_stream.store.database import Connection, connected
from lifeline_stream.store.outbox import OutboxStore

DAY = timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
"""Policies go by the server's clock, so the rows lie around it."""
OLD, RECENT = TODAY - 10 * DAY, TODAY - DAY
N_EACH = 500
"""Readings of each channel on each of the two days."""
SEQ = 1 << 40
"""Group numbers of shard number 1."""
VIEWS = ("reading_v", "alarm_v", "alarm_event_v", "reject_v", "reading_1m_v", "reading_1h_v")
COLUMNS = """SELECT table_name, column_name, data_type FROM information_schema.columns
             WHERE table_name = ANY ($1) ORDER BY table_name, ordinal_position"""
POLICIES = """SELECT proc_name, hypertable_name FROM timescaledb_information.jobs
              WHERE hypertable_schema = 'public' ORDER BY proc_name, hypertable_name"""
PUT_READINGS = """INSERT INTO reading SELECT * FROM
                  unnest($1::int[], $2::timestamptz[], $3::float8[], $4::int2[], $5::int[], $6::int8[])"""
READINGS = "SELECT channel, ts, value::text, quality, group_seq FROM reading ORDER BY channel, ts, group_seq"


@dataclass
class Upgraded:
    """A database whose rows were there before the extension, and what it said then.

    Attributes:
        dsn: of the database.
        applied: migrations of the second level.
        readings: rows of the plain table.
        rollups: rows of the plain rollup views.
        columns: of the stable views.
    """

    dsn: str
    applied: list[str]
    readings: list[Any]
    rollups: dict[str, list[tuple[Any, ...]]]
    columns: list[Any]


@pytest.fixture(scope="module", params=PRESENT)
def timescale(request: pytest.FixtureRequest) -> Iterator[Upgraded]:
    """Rows stored at the plain level, then the extension, then the second level."""
    with SERVERS[request.param]() as dsn:
        yield asyncio.run(_upgraded(dsn))


async def _upgraded(dsn: str) -> Upgraded:
    async with connected(dsn) as connection:
        assert {name.split("/")[0] for name in await migrations.upgrade(connection)} == {"plain"}
    await settle_city(dsn)
    async with connected(dsn) as connection:
        for start, seq in ((OLD, 1), (RECENT, 2)):
            await _put_readings(connection, start, SEQ + seq)
            await connection.execute(
                "INSERT INTO waveform VALUES (1, $1, 100, 3, '{1, 2, 3}', 0, $2)", start, SEQ + seq
            )  # fmt: skip
        readings = await connection.fetch(READINGS)
        rollups = {name: await _rollup(connection, name) for name in ("reading_1m", "reading_1h")}
        columns = await connection.fetch(COLUMNS, VIEWS)
        await connection.execute("CREATE EXTENSION timescaledb")
        applied = await migrations.upgrade(connection)
    return Upgraded(dsn, applied, readings, rollups, columns)


async def _put_readings(connection: Connection, start: datetime, group_seq: int) -> None:
    """Every 20 s on three channels, with every quality there is and some values that are none."""
    rng = np.random.default_rng(11)
    rows = [
        (channel, start + i * timedelta(seconds=20), math.nan if i % 50 == 49 else rng.normal(), i % 10, 0, group_seq)
        for channel in range(3)
        for i in range(N_EACH)
    ]
    await connection.execute(PUT_READINGS, *([*column] for column in zip(*rows, strict=True)))


async def _rollup(connection: Connection, name: str) -> list[tuple[Any, ...]]:
    query = f"SELECT channel, bucket, n, min, max, round(mean::numeric, 9) FROM {name} ORDER BY channel, bucket"  # noqa: S608
    return [tuple(row) for row in await connection.fetch(query)]


# ── taking over ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_upgrade_takes_over_the_rows_that_are_there(timescale: Upgraded) -> None:
    assert timescale.applied == [m.name for m in migrations.migrations() if m.name.startswith("timescale/")]
    async with connected(timescale.dsn) as connection:
        assert await migrations.pending(connection) == []
        assert await migrations.upgrade(connection) == []
        assert await connection.fetch(READINGS) == timescale.readings
        assert len(timescale.readings) == 6 * N_EACH
        tables = await connection.fetch(
            "SELECT hypertable_name, num_chunks, compression_enabled FROM timescaledb_information.hypertables "
            "WHERE hypertable_schema = 'public' ORDER BY 1"
        )
        assert [tuple(row) for row in tables] == [("reading", 2, True), ("waveform", 2, True)]


async def test_the_stable_views_keep_their_names_columns_and_types(timescale: Upgraded) -> None:
    async with connected(timescale.dsn) as connection:
        assert await connection.fetch(COLUMNS, VIEWS) == timescale.columns
        assert {row["table_name"] for row in timescale.columns} == set(VIEWS)
        assert await connection.fetchval("SELECT count(*) FROM reading_v WHERE county = 'north'") == 6 * N_EACH


async def test_a_migration_that_was_changed_is_refused(timescale: Upgraded) -> None:
    async with connected(timescale.dsn) as connection:
        step = connection.transaction()
        await step.start()
        await connection.execute("UPDATE schema_migration SET checksum = 'other' WHERE name = $1", timescale.applied[0])
        with pytest.raises(migrations.ConfigError, match="changed after it was applied"):
            await migrations.pending(connection)
        await step.rollback()


# ── rollups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rollups_equal_the_plain_views_before_and_after_they_are_refreshed(timescale: Upgraded) -> None:
    async with connected(timescale.dsn) as connection:
        for name, expected in timescale.rollups.items():
            assert len(expected) > N_EACH // 100
            assert await _rollup(connection, name) == expected
            await connection.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, NULL)")
            assert await _rollup(connection, name) == expected
            await connection.execute(f"ALTER MATERIALIZED VIEW {name} SET (timescaledb.materialized_only = true)")
            assert await _rollup(connection, name) == expected
            await connection.execute(f"ALTER MATERIALIZED VIEW {name} SET (timescaledb.materialized_only = false)")


async def test_a_late_reading_reaches_rollups_that_were_refreshed_before(timescale: Upgraded) -> None:
    at = OLD + timedelta(hours=20)
    async with connected(timescale.dsn) as connection:
        for name in timescale.rollups:
            await connection.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, NULL)")
        await connection.execute("INSERT INTO reading VALUES (3, $1, 7.5, 64, 0, $2)", at, SEQ + 3)
        # a run refreshes what was known to be stale when it began, so the hours follow the minutes
        for _ in range(3):
            await _run(connection, "policy_refresh_continuous_aggregate")
        for name in timescale.rollups:
            bucket = await connection.fetchrow(f"SELECT n, min, max, mean FROM {name} WHERE channel = 3")  # noqa: S608
            assert tuple(bucket) == (1, 7.5, 7.5, 7.5)
        await connection.execute("DELETE FROM reading WHERE channel = 3")


async def _run(connection: Connection, procedure: str, table: str = "%") -> None:
    """Run the policies of a kind, as the server does in the background."""
    query = (
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = $1 AND hypertable_name LIKE $2 ORDER BY 1"
    )
    jobs = await connection.fetch(query, procedure, table)
    assert jobs
    for job in jobs:
        await connection.execute(f"CALL run_job({job['job_id']})")


# ── policies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_policy_is_there(timescale: Upgraded) -> None:
    async with connected(timescale.dsn) as connection:
        assert [tuple(row) for row in await connection.fetch(POLICIES)] == [
            ("policy_compression", "reading"),
            ("policy_compression", "waveform"),
            ("policy_refresh_continuous_aggregate", "reading_1h"),
            ("policy_refresh_continuous_aggregate", "reading_1m"),
            ("policy_retention", "reading"),
            ("policy_retention", "reading_1m"),
            ("policy_retention", "waveform"),
        ]


async def test_old_chunks_are_compressed_read_back_equal_and_take_late_rows(timescale: Upgraded) -> None:
    compressed = "SELECT range_start FROM timescaledb_information.chunks WHERE hypertable_name = $1 AND is_compressed"
    async with connected(timescale.dsn) as connection:
        for table in ("reading", "waveform"):
            await _run(connection, "policy_compression", table)
            assert [row["range_start"] for row in await connection.fetch(compressed, table)] == [OLD]
        assert await connection.fetch(READINGS) == timescale.readings
        samples = await connection.fetch("SELECT samples FROM waveform")
        assert [row["samples"] for row in samples] == [[1.0, 2.0, 3.0]] * 2
        await connection.execute("INSERT INTO reading VALUES (3, $1, 7.5, 64, 0, $2)", OLD, SEQ + 3)
        assert await connection.fetchval("SELECT value FROM reading WHERE channel = 3 AND ts = $1", OLD) == 7.5
        await connection.execute("DELETE FROM reading WHERE channel = 3")
        assert await connection.fetch(READINGS) == timescale.readings


async def test_what_retention_drops_stays_in_the_rollups(timescale: Upgraded) -> None:
    gone, kept = TODAY - 410 * DAY, TODAY - 395 * DAY
    rows = "SELECT ts FROM reading WHERE channel = 3 ORDER BY ts"
    async with connected(timescale.dsn) as connection:
        for at in (gone, kept):
            await connection.execute("INSERT INTO reading VALUES (3, $1, 7.5, 0, 0, $2)", at, SEQ + 3)
        for name in timescale.rollups:
            await connection.execute(f"CALL refresh_continuous_aggregate('{name}', NULL, NULL)")
        await _run(connection, "policy_retention", "reading")
        for _ in range(3):
            await _run(connection, "policy_refresh_continuous_aggregate")
        assert [row["ts"] for row in await connection.fetch(rows)] == [kept]
        for name in timescale.rollups:
            buckets = await connection.fetch(f"SELECT bucket FROM {name} WHERE channel = 3 ORDER BY 1")  # noqa: S608
            assert [row["bucket"] for row in buckets] == [gone, kept]
        await connection.execute("DELETE FROM reading WHERE channel = 3")


# ── the program's own statements ──────────────────────────────────────────────────────────────────────────────────────

STATEMENTS = {path.stem: sql.load(str(path)) for path in sorted(Path(sql.__file__).parent.glob("*.sql"))}


@pytest.mark.parametrize("module", STATEMENTS)
async def test_every_statement_of_the_store_is_understood(timescale: Upgraded, module: str) -> None:
    async with connected(timescale.dsn) as connection:
        await connection.execute(STATEMENTS["late"]["create_staging"])
        for text in STATEMENTS[module].values():
            for statement in filter(str.strip, text.split(";")):
                await connection.prepare(statement)


async def test_recovery_reads_the_rows_of_its_groups(timescale: Upgraded) -> None:
    from_us, to_us = (int(t.timestamp() * 1e6) for t in (OLD, TODAY))
    async with connected(timescale.dsn) as connection:
        for seq, start in ((1, OLD), (2, RECENT)):
            rows = await connection.fetch(recovery.SQL["readings"], SEQ + seq, SEQ + seq, from_us, to_us)
            assert {row["group_seq"] for row in rows} == {SEQ + seq}
            assert len(rows) == 3 * N_EACH
            assert min(row["ts"] for row in rows) == start
            blocks = await connection.fetch(recovery.SQL["waveforms"], SEQ + seq, SEQ + seq, from_us, to_us)
            assert [(block["t0"], block["samples"]) for block in blocks] == [(start, [1.0, 2.0, 3.0])]
        newest = await connection.fetch(recovery.SQL["newest"], SEQ, 2 * SEQ)
        assert [(row["channel"], row["ts"]) for row in newest] == [
            (channel, RECENT + (N_EACH - 1) * timedelta(seconds=20)) for channel in range(3)
        ]
        assert await recovery.latest_state(connection, "s1") is None


async def test_late_rows_find_what_is_stored(timescale: Upgraded) -> None:
    statements = STATEMENTS["late"]
    from_us, to_us = (int(t.timestamp() * 1e6) for t in (OLD, TODAY))
    known = next(row for row in timescale.readings if row["channel"] == 2 and row["ts"] == OLD)
    async with connected(timescale.dsn) as connection:
        await connection.execute(statements["create_staging"])
        async with connection.transaction():
            await connection.execute("INSERT INTO staged_reading VALUES (5, 2, $1), (6, 2, $2)", OLD, OLD - DAY / 2)
            await connection.execute("INSERT INTO staged_waveform VALUES (1, $1, 100, 3, '{1, 2, 4}', 64, 0)", OLD)
            found = await connection.fetch(statements["stored_readings"], from_us, to_us)
            assert [(row["ord"], row["value"]) for row in found] == [(5, float(known["value"]))]
            blocks = await connection.fetch(statements["stored_waveforms"], from_us, to_us)
            assert [(row["channel"], row["n"], row["same"]) for row in blocks] == [(1, 3, False)]


async def test_the_book_the_outbox_and_the_queries_of_people_work(timescale: Upgraded) -> None:
    raised = event_of(EventKind.RAISED, 20, severity=3)
    item = item_of("o1", raised)
    async with connected(timescale.dsn) as connection:
        async with connection.transaction():
            await book.record(connection, [raised], [RULE], book.Place("s1", SEQ + 4))
            await connection.execute(
                "INSERT INTO outbox (id, alarm_id, at, body, state, due_at) VALUES ($1, $2, $3, $4, 'held', $3)",
                item.id, item.alarm_id, OLD, item.body,
            )  # fmt: skip
        page = await queries.alarms(connection, active=True, severity=2, domain="toy", county="north")
        assert [(alarm.channel, alarm.severity) for alarm in page.alarms] == [("c0", 3)]
        assert await queries.open_by_severity(connection) == {3: 1}
        assert [alarm.alarm_id for alarm in await recovery.active_alarms(connection, "s1")] == [raised.alarm_id]
        outbox = OutboxStore(connection, "webhook")
        newest_us = int((RECENT + N_EACH * timedelta(seconds=20)).timestamp() * 1e6)
        assert await outbox.release_held(newest_us + 3_600_000_000) == (0, 0)
        assert await outbox.release_held(newest_us) == (1, 0)
        assert [due.id for due in await outbox.claim_due(5, newest_us)] == ["o1"]
