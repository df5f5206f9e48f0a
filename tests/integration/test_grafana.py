"""The dashboards: the committed JSON is what the build gives, and every query of the city runs on PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifeline_stream.store.database import connected

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
BOARDS = {name: json.loads((GRAFANA / f"dashboards/{name}.json").read_text()) for name in ("city", "service")}
STABLE_VIEWS = re.findall(r"\w+_v\b", (GRAFANA / "provisioning/datasources/lifeline.yml").read_text())


def test_the_committed_dashboards_are_what_the_build_gives() -> None:
    spec = importlib.util.spec_from_file_location("build_dashboards", GRAFANA / "build.py")
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert {path.stem for path in build.built()} == set(BOARDS)
    for path, text in build.built().items():
        assert path.read_text(encoding="utf-8") == text, "run `make grafana`"


def test_the_dashboards_ask_the_data_sources_that_are_provisioned() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/lifeline.yml").read_text())["datasources"]
    asked = [panel["datasource"] for board in BOARDS.values() for panel in board["panels"]]
    asked += [variable["datasource"] for board in BOARDS.values() for variable in board["templating"]["list"]]
    assert {(d["type"], d["uid"]) for d in asked} == {(d["type"], d["uid"]) for d in provisioned}


# ── the city, on PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────

NOW = datetime.now(UTC).replace(second=30, microsecond=0)
MINUTE = NOW.replace(second=0)
HOUR = timedelta(hours=1)
CHOSEN = {"domain": ["gas", "bridge"], "county": ["north", "市级 city"], "channel": ["gas-1"]}


def expanded(query: str, interval_s: int = 60) -> str:
    """What Grafana sends: its macros and variables replaced, as its PostgreSQL data source documents them."""
    since, until = ((NOW + offset * HOUR).isoformat() for offset in (-6, 1))
    for name, values in CHOSEN.items():
        query = query.replace(f"${{{name}:sqlstring}}", ",".join(f"'{value}'" for value in values))
    query = query.replace("$__interval", f"{interval_s}s")
    query = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN '{since}' AND '{until}'", query)
    grouped = rf'floor(extract(epoch from \1)/{interval_s})*{interval_s} AS "time"'
    query = re.sub(r"\$__timeGroupAlias\((\w+), \d+s\)", grouped, query)
    assert "$" not in query, f"a macro or variable that this test does not know: {query}"
    return query


async def _fill(dsn: str) -> None:
    """A city whose every number is known; one domain, one county and one channel are not among those asked for.

    A channel reports when it was heard of within 3,000 s.
    """
    channels = [
        (0, "gas-1", "gas", "north"), (1, "gas-2", "gas", "north"), (2, "gas-3", "gas", "south"),
        (3, "bridge-1", "bridge", ""), (4, "water-1", "water", "north"), (5, "gone", "gas", "north"),
    ]  # fmt: skip
    readings = [
        (0, NOW, 2.0, 0), (0, NOW - timedelta(seconds=20), 1.0, 1), (0, NOW - timedelta(seconds=10), 9.0, 2),
        (0, NOW - timedelta(minutes=5), 4.0, 0), (1, NOW - HOUR, 3.0, 0), (2, NOW, 1.0, 0), (4, NOW, 1.0, 0),
    ]  # fmt: skip
    alarms = [
        ("a1", 0, "hazard", 4, True, NOW), ("a2", 1, "hazard", 2, True, NOW - HOUR),
        ("a3", 3, "device", 1, True, NOW - HOUR), ("a4", 0, "hazard", 3, False, NOW - 2 * HOUR),
        ("a5", 2, "hazard", 4, True, NOW), ("a6", 3, "hazard", 1, True, NOW),
    ]  # fmt: skip
    async with connected(dsn) as connection:
        await connection.executemany(
            "INSERT INTO channel VALUES ($1, $2, 'd', 'asset', $4, $3, $3 || '.x', 'm', 1000, $2 = 'gone')", channels
        )
        await connection.executemany("INSERT INTO reading VALUES ($1, $2, $3, $4, 0, 1)", readings)
        await connection.execute(
            "INSERT INTO waveform VALUES (3, $1, 100, 4, '{1, 2, 3, 6}', 0, 1)", NOW
        )  # fmt: skip
        for id_, channel, class_, severity, active, at in alarms:
            await connection.execute(
                "INSERT INTO alarm VALUES ($1, 's', $2, $3 || '-1', $3, $4, $4, $5, $6, $6, NULL, 5, 4, false, false, "
                "'why', 'source', 'act', 'h', 1)", id_, channel, class_, severity, active, at,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO alarm_event VALUES ($1, $1, 'raised', $2, $3, 5, 4, false, 1)", id_, at, severity
            )
        await connection.execute("INSERT INTO alarm_event VALUES ('e', 'a4', 'cleared', $1, 3, 1, 4, false, 1)", NOW)
        for reason, at, n in (("malformed", NOW, 2), ("malformed", NOW, 3), ("unknown_channel", NOW - HOUR, 1)):
            await connection.execute(
                "INSERT INTO reject (received_at, reason, detail, source, payload, n_readings, shard, group_seq) "
                "VALUES ($1, $2, '', '', '', $3, 's', 1)", at, reason, n,
            )  # fmt: skip


def _epoch(at: datetime) -> float:
    return at.replace(second=0).timestamp()


YELLOW, RED, BLUE, ORANGE = "黄 yellow", "红 red", "蓝 blue", "橙 orange"
EXPECTED: dict[str, list[dict[str, Any]]] = {
    "未消除告警 Open alarms by severity": [{RED: 1, ORANGE: 0, YELLOW: 1, BLUE: 1, "设备 device": 1}],
    "各专业未消除告警 Open alarms by domain": [
        {"domain": "bridge", BLUE: 1, YELLOW: 0, ORANGE: 0, RED: 0},
        {"domain": "gas", BLUE: 0, YELLOW: 1, ORANGE: 0, RED: 1},
    ],
    "各区县未消除告警 Open alarms by county": [
        {"county": "north", BLUE: 0, YELLOW: 1, ORANGE: 0, RED: 1},
        {"county": "市级 city", BLUE: 1, YELLOW: 0, ORANGE: 0, RED: 0},
    ],
    "最新告警 Newest alarms": [
        {
            "时间 raised": at, "等级 severity": severity, "状态 state": state,
            "专业 domain": domain, "区县 county": county, "设施 asset": "asset", "通道 channel": channel,
            "规则 detector": f"{class_}-1", "值 value": 5.0, "限值 limit": 4.0, "单位 unit": "m", "处置 action": "act",
        }
        for at, severity, state, domain, county, channel, class_ in (
            (NOW, RED, "未消除 active", "gas", "north", "gas-1", "hazard"),
            (NOW, BLUE, "未消除 active", "bridge", "市级 city", "bridge-1", "hazard"),
            (NOW - HOUR, YELLOW, "未消除 active", "gas", "north", "gas-2", "hazard"),
            (NOW - HOUR, BLUE, "未消除 active", "bridge", "市级 city", "bridge-1", "device"),
            (NOW - 2 * HOUR, ORANGE, "已消除 ended", "gas", "north", "gas-1", "hazard"),
        )
    ],
    "新增告警 Alarms raised": [
        {"time": _epoch(NOW - 2 * HOUR), "metric": ORANGE, "alarms": 1},
        {"time": _epoch(NOW - HOUR), "metric": BLUE, "alarms": 1},
        {"time": _epoch(NOW - HOUR), "metric": YELLOW, "alarms": 1},
        {"time": _epoch(NOW), "metric": BLUE, "alarms": 1},
        {"time": _epoch(NOW), "metric": RED, "alarms": 1},
    ],
    "在报与应报通道 Channels reporting and due": [
        {"专业 domain": "gas", "区县 county": "north", "应报 due": 2, "在报 reporting": 1, "在线率 share": 0.5},
        {"专业 domain": "bridge", "区县 county": "市级 city", "应报 due": 1, "在报 reporting": 1, "在线率 share": 1.0},
    ],
    "每分钟读数 Readings and samples per minute": [
        {"time": MINUTE - HOUR, "metric": "gas", "readings": 1},
        {"time": MINUTE - timedelta(minutes=5), "metric": "gas", "readings": 1},
        {"time": MINUTE, "metric": "bridge", "readings": 4},
        {"time": MINUTE, "metric": "gas", "readings": 2},
    ],
    "拒收读数 Rejected readings by reason": [
        {"time": _epoch(NOW - HOUR), "metric": "unknown_channel", "readings": 1},
        {"time": _epoch(NOW), "metric": "malformed", "readings": 5},
    ],
    "通道历史 History of $channel": [
        {"time": _epoch(NOW - timedelta(minutes=5)), "最小 min": 4.0, "平均 mean": 4.0, "最大 max": 4.0},
        {"time": _epoch(NOW), "最小 min": 1.0, "平均 mean": 1.5, "最大 max": 2.0},
    ],
    "通道告警事件 Alarm events of $channel": [
        {"时间 at": at, "事件 event": event, "等级 severity": severity, "规则 detector": "hazard-1", "值 value": value,
         "限值 limit": 4.0, "迟到 late": False}
        for at, event, severity, value in (
            (NOW, "raised", RED, 5.0), (NOW, "cleared", ORANGE, 1.0), (NOW - 2 * HOUR, "raised", ORANGE, 5.0)
        )
    ],
}  # fmt: skip
VARIABLES = {"domain": ["bridge", "gas", "water"], "county": ["north", "south", "市级 city"]}
VARIABLES |= {"channel": ["bridge-1", "gas-1", "gas-2"]}


@pytest.fixture
def city_dsn(store_dsn: str) -> str:
    """A database with the schema and a small city in it."""
    asyncio.run(_fill(store_dsn))
    return store_dsn


async def _as_grafana(dsn: str, queries: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Ask as a role that may read the stable views and nothing else."""
    async with connected(dsn) as connection:
        step = connection.transaction()
        await step.start()
        await connection.execute("CREATE ROLE lifeline_test_grafana")
        await connection.execute(f"GRANT SELECT ON {', '.join(STABLE_VIEWS)} TO lifeline_test_grafana")
        await connection.execute("SET ROLE lifeline_test_grafana")
        answers = {name: [dict(row) for row in await connection.fetch(expanded(q))] for name, q in queries.items()}
        await step.rollback()
    return answers


def test_every_panel_of_the_city_gives_what_is_stored(city_dsn: str) -> None:
    queries = {panel["title"]: target["rawSql"] for panel in BOARDS["city"]["panels"] for target in panel["targets"]}
    answers = asyncio.run(_as_grafana(city_dsn, queries))
    assert set(answers) == set(EXPECTED)
    for title, expected in EXPECTED.items():
        found = answers[title]
        assert [list(row) for row in found] == [list(row) for row in expected], title
        assert _unordered(found) == _unordered(expected), title
        assert [row.get("time") for row in found] == [row.get("time") for row in expected], title


def _unordered(rows: list[dict[str, Any]]) -> list[str]:
    """For rows of one time, whose order says nothing."""
    return sorted(str({k: float(v) if isinstance(v, int | Decimal) else v for k, v in row.items()}) for row in rows)


def test_every_variable_of_the_city_offers_what_is_stored(city_dsn: str) -> None:
    queries = {variable["name"]: variable["query"] for variable in BOARDS["city"]["templating"]["list"]}
    answers = asyncio.run(_as_grafana(city_dsn, queries))
    assert {name: [next(iter(row.values())) for row in rows] for name, rows in answers.items()} == VARIABLES


def test_waveforms_have_a_history_too(city_dsn: str) -> None:
    (query,) = (p["targets"][0]["rawSql"] for p in BOARDS["city"]["panels"] if p["title"].startswith("通道历史"))
    answer = asyncio.run(_as_grafana(city_dsn, {"history": query.replace("${channel:sqlstring}", "'bridge-1'")}))
    assert [list(row.values())[1:] for row in answer["history"]] == [[1.0, 3.0, 6.0]]


async def test_minutes_of_a_time_range_are_found_by_an_index(city_dsn: str) -> None:
    query = "EXPLAIN SELECT sum(n) FROM reading_1m_v WHERE bucket BETWEEN now() - interval '1 hour' AND now()"
    async with connected(city_dsn) as connection:
        if await connection.fetchval("SELECT to_regclass('reading_minute')") is None:
            pytest.skip("TimescaleDB keeps the minutes itself")
        await connection.execute("SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in await connection.fetch(query))
    assert "reading_minute" in plan
