"""The simulated city: its physics against the packs, its incidents, its faults, and what its gateways say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.detection import Detection
from lifeline_stream.core.model import BACKFILL, ConditionEvent, EventKind, ReadingBatch
from lifeline_stream.core.normalize import Normalizer
from lifeline_stream.core.packs import Pack
from lifeline_stream.core.plan import compile_plan
from lifeline_stream.declarations import load_packs, load_topology
from lifeline_stream.errors import ConfigError
from lifeline_stream.fleet.encoding import BATCH_ROWS, Encoder, metric
from lifeline_stream.fleet.faults import FAULTS, SKEW_S
from lifeline_stream.fleet.options import FleetOptions, Incident
from lifeline_stream.fleet.physics import HAZARDS, SIGNALS
from lifeline_stream.fleet.scenario import is_waveform
from lifeline_stream.fleet.simulation import Fleet, Load, Readings
from lifeline_stream.formats.json_v1 import decode
from lifeline_stream.replay import replay
from lifeline_stream.resources import find
from lifeline_stream.simulate import record_fleet

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
START_US = 1_767_600_000 * SECOND_US
"""2026-01-05T08:00:00Z."""


@pytest.fixture(scope="module")
def packs() -> list[Pack]:
    return load_packs(find("detectors"))


@pytest.fixture(scope="module")
def city(packs: list[Pack]) -> Catalog:
    return load_registry(find("config", "demo_city"), packs)


@pytest.fixture(scope="module")
def canonical(city: Catalog) -> Catalog:
    """The same city with gateways that all speak canonical units."""
    return replace(city, channels=tuple(replace(c, unit="") for c in city.channels))


def tick_rows(fleet: Readings, until_s: float, tick_s: float) -> Iterator[ReadingBatch]:
    """What is sent in each tick, duplicates and waveforms too."""
    end_us, tick_us = START_US + round(until_s * SECOND_US), round(tick_s * SECOND_US)
    for t0_us in range(START_US, end_us, tick_us):
        tick = fleet.readings(t0_us, min(t0_us + tick_us, end_us))
        yield ReadingBatch.concat([tick.batch, tick.again, *(block.as_readings() for block in tick.blocks)])


def all_rows(fleet: Readings, until_s: float, tick_s: float = 60.0) -> ReadingBatch:
    """All of it in order of time and channel."""
    rows = ReadingBatch.concat(list(tick_rows(fleet, until_s, tick_s)))
    return rows.take(np.lexsort((rows.channel_ix, rows.ts_us)))


def of_channel(rows: ReadingBatch, city: Catalog, channel: str) -> ReadingBatch:
    ix = next(c.ix for c in city.channels if c.id == channel)
    return rows.take(rows.channel_ix == ix)


def raised_hazards(
    city: Catalog, packs: Sequence[Pack], stretches: Iterator[ReadingBatch]
) -> list[tuple[str, ConditionEvent]]:
    """Hazard alarms that somebody is told, with their channel."""
    detection = Detection(compile_plan(city, packs, event_time=True), "event")
    hazards = {d.id for p in packs for d in p.detector if d.class_ == "hazard"}
    events: list[ConditionEvent] = []
    for rows in stretches:
        in_order = rows.take(np.argsort(rows.ts_us, kind="stable"))
        judged = detection.normalizer.arrive(in_order, int(rows.ts_us.max(initial=0)))
        events += detection.step(judged, detection.now_us(0, judged), -1)[0]
    return [
        (city.by_ix[e.channel_ix].id, e)
        for e in events
        if e.kind is EventKind.RAISED and e.detector in hazards and not e.trial
    ]


# ── physics ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_sensor_type_of_every_pack_is_simulated_in_its_unit(packs: list[Pack]) -> None:
    declared = {f"{pack.domain.id}.{sensor.id}": sensor.unit for pack in packs for sensor in pack.sensor}
    assert {name: signal.unit for name, signal in SIGNALS.items()} == declared


def test_the_demo_city_has_every_sensor_type(city: Catalog) -> None:
    assert {channel.sensor for channel in city.channels} == set(SIGNALS)


def test_incidents_touch_simulated_sensors_only_and_every_domain_has_one() -> None:
    touched = {name for hazard in HAZARDS.values() for name in (*hazard.adds, *hazard.nearby)}
    assert touched <= set(SIGNALS)
    assert {h.anchor.partition(".")[0] for h in HAZARDS.values()} == {n.partition(".")[0] for n in SIGNALS}


@pytest.mark.parametrize(("seed", "start"), [(1, "2026-01-05T00:00:00+08:00"), (2, "2026-07-18T00:00:00+08:00")])
def test_a_quiet_day_raises_no_hazard_alarm(canonical: Catalog, packs: list[Pack], seed: int, start: str) -> None:
    thin = tuple(replace(c, every_s=max(c.every_s, 60.0)) for c in canonical.channels if not is_waveform(c))
    city = replace(canonical, channels=thin)
    start_us = round(datetime.fromisoformat(start).timestamp() * 1e6)
    fleet = Fleet(city, packs, FleetOptions(seed=seed), start_us)
    hours = range(start_us, start_us + 26 * HOUR_US, HOUR_US)
    stretches = (fleet.readings(t0_us, t0_us + HOUR_US).batch for t0_us in hours)
    assert raised_hazards(city, packs, stretches) == []


def test_faults_of_devices_raise_no_hazard_alarm(canonical: Catalog, packs: list[Pack]) -> None:
    city = replace(canonical, channels=tuple(c for c in canonical.channels if not is_waveform(c) and c.every_s >= 2.0))
    fleet = Fleet(city, packs, FleetOptions(seed=9, per_day=dict.fromkeys(FAULTS, 200.0)), START_US)
    raised = raised_hazards(city, packs, tick_rows(fleet, 3 * 3600.0, 600.0))
    assert {line["kind"] for line in fleet.truth(START_US + 3 * HOUR_US)} == set(FAULTS)
    assert raised == []


def test_quiet_waveforms_raise_no_hazard_alarm_in_the_rush_hour(canonical: Catalog, packs: list[Pack]) -> None:
    city = replace(canonical, channels=tuple(c for c in canonical.channels if is_waveform(c)))
    fleet = Fleet(city, packs, FleetOptions(seed=3), START_US)
    rows = list(tick_rows(fleet, 1200.0, 300.0))
    assert sum(map(len, rows)) == round(1200 * sum(1 / c.every_s for c in city.channels))
    assert raised_hazards(city, packs, iter(rows)) == []


# ── scenario ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n_runs", [0, 1, 2])
def test_every_declared_incident_of_the_demo_raises_an_alarm_while_it_lasts(
    canonical: Catalog, packs: list[Pack], n_runs: int
) -> None:
    options = load_topology("demo").fleet
    options = options.model_copy(update={"per_day": {}, "seed": options.seed + n_runs})
    fleet = Fleet(canonical, packs, options, START_US)
    raised = raised_hazards(canonical, packs, tick_rows(fleet, 3300.0, 60.0))
    truth = [line for line in fleet.truth(START_US + HOUR_US) if line["class"] == "hazard"]
    assert {HAZARDS[line["kind"]].anchor.partition(".")[0] for line in truth} == {pack.domain.id for pack in packs}

    def found(line: dict[str, Any]) -> bool:
        onset_us, end_us = (datetime.fromisoformat(line[key]).timestamp() * 1e6 for key in ("onset", "end"))
        return any(channel in line["channels"] and onset_us <= e.at_us <= end_us for channel, e in raised)

    assert [line["kind"] for line in truth if not found(line)] == []
    told = {channel for line in truth for channel in line["channels"]}
    assert [channel for channel, _ in raised if channel not in told] == []


def test_the_same_seed_gives_the_same_readings_whatever_the_ticks(city: Catalog, packs: list[Pack]) -> None:
    faults = tuple(
        Incident(kind=kind, at=at, starts_s=30.0, lasts_s=200.0)
        for kind, at in zip(FAULTS, ("WP01/pressure", "WQ01/ph", "DM01A", "HS01", "GM01A", "TU11A"), strict=True)
    )
    options = FleetOptions(seed=5, incident=(Incident(kind="leak", starts_s=20.0), *faults), per_day={"burst": 500.0})
    once, *others = [all_rows(Fleet(city, packs, options, START_US), 300.0, tick_s) for tick_s in (300.0, 1.0, 7.3)]
    for other in others:
        for column in ("channel_ix", "ts_us", "value", "quality"):
            np.testing.assert_array_equal(getattr(once, column), getattr(other, column))
    another = all_rows(Fleet(city, packs, options.model_copy(update={"seed": 6}), START_US), 300.0)
    assert not np.array_equal(once.value, another.value)


def test_what_happens_by_chance_never_strikes_a_channel_twice_at_once(city: Catalog, packs: list[Pack]) -> None:
    options = FleetOptions(seed=4, per_day={"leak": 300.0, "flood": 300.0, "drop_out": 300.0, "stuck": 300.0})
    fleet = Fleet(city, packs, options, START_US)
    for t0_us in range(START_US, START_US + 6 * HOUR_US, HOUR_US):
        fleet.readings(t0_us, t0_us + 1)
    truth = list(fleet.truth(START_US + 6 * HOUR_US))
    assert len({line["kind"] for line in truth}) == 4
    for n, line in enumerate(truth):
        for other in truth[:n]:
            apart = other["end"] <= line["onset"] or line["end"] <= other["onset"]
            assert apart or not set(line["channels"]) & set(other["channels"])


def test_an_incident_where_it_cannot_happen_is_refused_by_place(city: Catalog, packs: list[Pack]) -> None:
    options = FleetOptions(
        incident=(
            Incident(kind="leak", at="bridge-1-span", starts_s=1.0),
            Incident(kind="drift", at="GC01/immersion", starts_s=1.0),
            Incident(kind="flood", at="nowhere", starts_s=1.0),
        )
    )
    with pytest.raises(ConfigError) as caught:
        Fleet(city, packs, options, START_US)
    texts = "\n".join(problem.text for problem in caught.value.problems)
    for place in ("bridge-1-span", "GC01/immersion", "nowhere"):
        assert place in texts
    assert len(caught.value.problems) == 3


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────

AT, CHANNEL = "DM01A", "DM01A/level"
FROM_S, LASTS_S, UNTIL_S = 60.0, 120.0, 300.0


@pytest.fixture(scope="module")
def healthy(city: Catalog, packs: list[Pack]) -> ReadingBatch:
    return of_channel(all_rows(Fleet(city, packs, FleetOptions(seed=7), START_US), UNTIL_S), city, CHANNEL)


def faulty(city: Catalog, packs: list[Pack], kind: str, at: str = AT) -> ReadingBatch:
    incident = Incident(kind=kind, at=at, starts_s=FROM_S, lasts_s=LASTS_S)
    fleet = Fleet(city, packs, FleetOptions(seed=7, incident=(incident,)), START_US)
    return of_channel(all_rows(fleet, UNTIL_S, 5.0), city, CHANNEL)


def struck(rows: ReadingBatch) -> np.ndarray[Any, np.dtype[np.bool_]]:
    since_s = (rows.ts_us - START_US) / SECOND_US
    return (since_s >= FROM_S) & (since_s < FROM_S + LASTS_S)


def test_a_drop_out_takes_its_readings_away_and_no_other(
    city: Catalog, packs: list[Pack], healthy: ReadingBatch
) -> None:
    rows = faulty(city, packs, "drop_out")
    assert struck(healthy).sum() == 40
    np.testing.assert_array_equal(rows.ts_us, healthy.ts_us[~struck(healthy)])
    np.testing.assert_array_equal(rows.value, healthy.value[~struck(healthy)])


def test_a_stuck_channel_repeats_itself(city: Catalog, packs: list[Pack], healthy: ReadingBatch) -> None:
    rows = faulty(city, packs, "stuck", CHANNEL)
    assert len(set(rows.value[struck(rows)])) == 1
    assert len(set(healthy.value[struck(healthy)])) > 1
    np.testing.assert_array_equal(rows.value[~struck(rows)], healthy.value[~struck(healthy)])


def test_a_drift_grows_to_one_span(city: Catalog, packs: list[Pack], healthy: ReadingBatch) -> None:
    rows = faulty(city, packs, "drift", CHANNEL)
    signal = SIGNALS["drainage.level"]
    added = (rows.value - healthy.value)[struck(rows)]
    expected = signal.span * (rows.ts_us[struck(rows)] - START_US - FROM_S * SECOND_US) / (LASTS_S * SECOND_US)
    np.testing.assert_allclose(added, expected, atol=1.01 * signal.step)
    assert not (rows.value - healthy.value)[~struck(rows)].any()


def test_a_skewed_clock_moves_the_stamps_and_not_the_values(
    city: Catalog, packs: list[Pack], healthy: ReadingBatch
) -> None:
    rows = faulty(city, packs, "clock_skew")
    expected = healthy.ts_us + np.where(struck(healthy), round(SKEW_S * SECOND_US), 0)
    order = np.argsort(expected)
    np.testing.assert_array_equal(rows.ts_us, expected[order])
    np.testing.assert_array_equal(rows.value, healthy.value[order])
    assert len(set(rows.ts_us.tolist())) == len(rows)


def test_a_duplicate_is_sent_twice(city: Catalog, packs: list[Pack], healthy: ReadingBatch) -> None:
    rows = faulty(city, packs, "duplicate")
    times = Counter(rows.ts_us.tolist())
    assert [times[ts] for ts in healthy.ts_us.tolist()] == np.where(struck(healthy), 2, 1).tolist()


def test_a_late_batch_holds_readings_back_and_sends_them_as_a_backfill(
    city: Catalog, packs: list[Pack], healthy: ReadingBatch
) -> None:
    rows = faulty(city, packs, "late_batch")
    np.testing.assert_array_equal(rows.ts_us, healthy.ts_us)
    np.testing.assert_array_equal(rows.value, healthy.value)
    np.testing.assert_array_equal((rows.quality & BACKFILL) != 0, struck(healthy))
    incident = Incident(kind="late_batch", at=AT, starts_s=FROM_S, lasts_s=LASTS_S)
    fleet = Fleet(city, packs, FleetOptions(seed=7, incident=(incident,)), START_US)
    by_tick = [int(struck(of_channel(rows, city, CHANNEL)).sum()) for rows in tick_rows(fleet, UNTIL_S, 30.0)]
    assert by_tick == [0, 0, 0, 0, 0, 40, 0, 0, 0, 0]


# ── what gateways say ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_messages_hold_what_the_city_shows_and_nobody_refuses_them(city: Catalog, packs: list[Pack]) -> None:
    incidents = tuple(Incident(kind=k, at=AT, starts_s=1.0, lasts_s=3.0) for k in ("late_batch", "duplicate"))
    fleet = Fleet(city, packs, FleetOptions(seed=8, incident=incidents), START_US)
    tick = fleet.readings(START_US, START_US + 5 * SECOND_US)
    encoder = Encoder(city.channels, sorted({c.domain for c in city.channels}), alone=True)
    normalizer = Normalizer(city, packs)
    said: Counter[tuple[str, int, float]] = Counter()
    n_samples, n_counted = 0, 0
    forms = set()
    for message in encoder.messages(tick, START_US // 1000 + 5000):
        gateway, device = message.topic.split("/")[2:4]
        decoded = decode(message.payload)
        forms.add(next(key for key in ("channels", "t0", "ts") if key in json.loads(message.payload)))
        n_counted += int(message.counts.sum())
        n_samples += sum(len(block[3]) for block in decoded.blocks)
        for name_ix, ts_us, value in zip(decoded.name_ix, decoded.ts_us, decoded.value, strict=True):
            name = decoded.names[name_ix]
            said[name if "/" in name else f"{device}/{name}", int(ts_us), float(value)] += 1
        assert len(decoded.ts_us) <= BATCH_ROWS
        assert normalizer.normalize(decoded, gateway, device, START_US + 5 * SECOND_US).rejects == []
    shown: Counter[tuple[str, int, float]] = Counter()
    for batch in (tick.batch, tick.again):
        for ix, ts_us, value in zip(batch.channel_ix, batch.ts_us, batch.value, strict=True):
            channel = city.by_ix[int(ix)]
            shown[f"{channel.device}/{metric(channel)}", int(ts_us), float(value)] += 1
    assert said == shown
    assert forms == {"channels", "t0", "ts"}
    assert n_samples == sum(len(block.samples) for block in tick.blocks)
    assert n_counted == len(tick.batch) + n_samples
    assert len(tick.again) > 0


def test_a_load_gives_every_channel_the_same_share_of_the_rate(city: Catalog, packs: list[Pack]) -> None:
    load = Load(city, packs, FleetOptions(readings_per_s=20_000.0), START_US)
    rows = all_rows(load, 2.0, 0.1)
    slow = [c for c in city.channels if not is_waveform(c)]
    assert len(rows) == pytest.approx(40_000, rel=0.01)
    per_channel = np.bincount(rows.channel_ix, minlength=city.n_ix)[[c.ix for c in slow]]
    assert per_channel.max() - per_channel.min() <= 1
    assert len(set(zip(rows.channel_ix.tolist(), rows.ts_us.tolist(), strict=True))) == len(rows)
    assert not (rows.ts_us % 1000).any()


def test_a_load_beyond_one_reading_a_millisecond_is_refused(city: Catalog, packs: list[Pack]) -> None:
    with pytest.raises(ConfigError, match="readings_per_s"):
        Load(city, packs, FleetOptions(readings_per_s=1e7), START_US)


# ── recording ─────────────────────────────────────────────────────────────────────────────────────────────────────────


LEAK = """
shard = "leak"
registry = "demo_city"
source = { kind = "mqtt" }
fleet = { incident = [{ kind = "leak", at = "gas-chamber-01", starts_s = 8 }] }
"""


def test_a_recording_replays_to_the_alarms_of_its_truth(packs: list[Pack], tmp_path: Path) -> None:
    topology = tmp_path / "leak.toml"
    topology.write_text(LEAK, encoding="utf-8")
    done = json.loads(record_fleet(str(topology), tmp_path, 0.02, "2026-01-05T16:00:00+08:00"))
    out = tmp_path / "alarms.jsonl"
    replayed = replay([tmp_path / "trace.parquet"], [], packs, registry=find("config", "demo_city"), out=out)
    assert replayed.n_readings == done["readings"]
    assert replayed.n_unwatched == replayed.n_implausible == 0
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert len(truth) == done["truth"]
    (leak,) = truth
    alarms = [json.loads(line) for line in out.read_text().splitlines()]
    assert {a["channel"] for a in alarms if a["class"] == "hazard"} <= set(leak["channels"])
    first = next(a for a in alarms if a["channel"] == "GC01/methane")  # its gateway speaks %LEL: 100 are 5 %VOL
    assert 1.0 <= first["value"] <= 6.1
    assert 0.0 <= (datetime.fromisoformat(first["at"]) - datetime.fromisoformat(leak["onset"])).total_seconds() <= 20.0
