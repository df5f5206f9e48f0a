"""Normalising equals its scalar twin, and what is known of arrival survives repeats and a restart."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeline_stream.core.detection import Detection
from lifeline_stream.core.kernels import arrival
from lifeline_stream.core.model import BACKFILL, LATE, ConditionEvent, Quality, ReadingBatch
from lifeline_stream.core.normalize import Normalizer
from lifeline_stream.core.packs import Pack
from lifeline_stream.core.plan import Plan, compile_plan
from making import SECOND, T0_US, batch, make_catalog, make_pack, message, told
from reference import Reading
from reference_wire import ArrivalTwin, Named, ReferenceNormalizer

VERDICTS = ["new", "again", "late", "doubt", "duplicate", "conflict", "clock_future", "clock_past"]
assert [arrival.NEW, arrival.AGAIN, arrival.LATE, arrival.DOUBT] == [0, 1, 2, 3]
assert [arrival.DUPLICATE, arrival.CONFLICT, arrival.FUTURE, arrival.PAST] == [4, 5, 6, 7]

GAS = {"id": "gas", "quantity": "gas_fraction", "unit": "%VOL", "plausible": (0, 100), "over_range": "alarm"}
METHANE = {"molar_mass_g_per_mol": 16.043, "lel_percent_vol": 5.0}
SENSORS = [
    GAS | {"aliases": ["CH4", "甲烷"], "substance": METHANE, "states": {"thick": {"above": 50}}},
    {"id": "water", "quantity": "temperature", "unit": "°C", "plausible": (-20, 90), "aliases": ["T", "水温"]},
]
DETECTORS = [
    {"id": "x.high", "kind": "threshold", "sensor": "gas", "above": {"yellow": 1, "red": 60}, "clear_below": 0.5},
    {"id": "x.hot", "kind": "threshold", "sensor": "water", "above": {"blue": 40}, "off_delay_s": 90}
    | {"needs": {"gas": "not thick"}, "hold_s": 30},
    {"id": "x.flat", "kind": "flat", "sensor": "*", "after_s": 120, "severity": "blue"},
    {"id": "x.rate", "kind": "rate", "sensor": "*", "mean_s": 60, "over_s": 60, "above": {"yellow": 20}},
    {"id": "x.silent", "kind": "absence", "sensor": "*", "severity": "blue"},
]
PACK: Pack = make_pack(SENSORS, DETECTORS)
CATALOG = make_catalog(("A1", "gas"), ("A1", "water"), ("A2", "gas", 10.0), ("B1", "water", 10.0))
PLAN: Plan = compile_plan(CATALOG, [PACK])

offsets = st.one_of(st.integers(-400, 301), st.integers(-5, 5), st.just(0))


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), offsets, st.sampled_from([0.0, 1.0, np.nan]), st.booleans(), st.integers(0, 120)),
        max_size=60,
    )
)
def test_arrival_equals_its_twin(rows: list[tuple[int, int, float, bool, int]]) -> None:
    state, twins = arrival.fresh(3), [ArrivalTwin() for _ in range(3)]
    received_us = T0_US
    for channel, offset_s, value, backfill, passed_s in rows:
        received_us += passed_s * SECOND // 4
        ts_us = received_us + offset_s * SECOND if offset_s > -400 else 5
        verdict = np.zeros(1, np.uint8)
        quality = BACKFILL if backfill else 0
        columns = batch([Reading(channel, ts_us, value, quality)])
        arrival.classify(columns.channel_ix, columns.ts_us, columns.value, columns.quality, received_us, state, verdict)
        judged = twins[channel].judge(ts_us, value, received_us, backfill=backfill)
        assert VERDICTS[verdict[0]] == judged
        assert [int(t) for t in state["newest_us"]] == [twin.newest_us for twin in twins]


names = st.sampled_from(["gas", "CH4", "甲烷", "x.gas", "T", "水温", "A2/CH4", "A2/x.gas", "B1/水温"])
units = {"gas": [None, "%LEL", "ppm", "%VOL", "mg/m3"], "water": [None, "℃", "K", "°F"]}
flags = st.sampled_from([int(q) for q in Quality])


@st.composite
def named(draw: st.DrawFn) -> Named:
    name = draw(names)
    unit = draw(st.sampled_from(units["water" if name.endswith(("T", "水温")) else "gas"]))
    value = draw(st.one_of(st.floats(-300, 1e6, width=32), st.sampled_from([0.0, 100.0, 100.00001])))
    quality = draw(flags) | draw(st.sampled_from([0, 0, 0, BACKFILL]))
    return Named(name, unit, T0_US + draw(st.integers(-20, 20)) * SECOND, value, quality)


@settings(max_examples=200)
@given(st.lists(st.lists(named(), min_size=1, max_size=8), max_size=6))
def test_a_normalized_message_equals_the_twin(messages: list[list[Named]]) -> None:
    fast, slow = Normalizer(CATALOG, [PACK]), ReferenceNormalizer(CATALOG, [PACK])
    for place, rows in enumerate(messages):
        received_us = T0_US + place * 5 * SECOND
        in_time = sorted(rows, key=lambda r: r.ts_us)
        judged = [slow.take(row, "GW", "A1", received_us) for row in in_time]
        expected = [reading for reading, verdict in judged if verdict in ("new", "again", "late", "doubt")]
        found = fast.normalize(decoded(rows), "GW", "A1", received_us)
        assert list(map(Reading._make, columns_of(found.batch))) == expected
        counted = sum(reject.n_readings for reject in found.rejects) + found.n_duplicates
        assert counted == len(rows) - len(expected)


def decoded(rows: list[Named]):  # noqa: ANN201 - as `message` gives it
    found = message([(f"{row.name}|{row.unit}", row.ts_us, row.value) for row in rows])
    found.units = [None if name.endswith("None") else name.partition("|")[2] for name in found.names]
    found.names = [name.partition("|")[0] for name in found.names]
    found.quality[:] = [row.quality for row in rows]
    return found


def columns_of(found: ReadingBatch) -> zip[tuple[int, int, float, int]]:
    return zip(
        found.channel_ix.tolist(), found.ts_us.tolist(), found.value.tolist(), found.quality.tolist(), strict=True
    )


# ── messages as a broker brings them, in commit groups ───────────────────────────────────────────────────────────────

Sent = tuple[int, list[tuple[str, int, float]]]
"""When it was received, and its rows."""


@st.composite
def traffic(draw: st.DrawFn, ahead: tuple[int, ...] = (0,)) -> list[Sent]:
    """Messages of one gateway, whose clock may be ahead; no two readings of a channel have the same time."""
    sent: list[Sent] = []
    now_s = 0
    cells = st.tuples(st.sampled_from(["gas", "water", "A2/gas", "B1/water"]), st.sampled_from([0.0, 1.0, 30.0, 70.0]))
    late_s = st.sampled_from([0, 0, 0, 30, 200, 5000])
    kinds = st.tuples(st.integers(1, 40), st.sampled_from(ahead), late_s, st.lists(cells, min_size=1, max_size=4))
    for n, (passed_s, ahead_s, behind_s, row) in enumerate(draw(st.lists(kinds, min_size=1, max_size=25))):
        now_s += passed_s
        stamp_us = T0_US + (now_s + ahead_s - behind_s) * SECOND + n * 100
        rows = [(name, stamp_us - SECOND * (len(row) - k) + k, value) for k, (name, value) in enumerate(row)]
        sent.append((T0_US + now_s * SECOND, rows))
    return sent


def live_events(sent: list[Sent]) -> list[ConditionEvent]:
    detection = Detection(PLAN, "received")
    events: list[ConditionEvent] = []
    for received_us, rows in sent:
        found = detection.normalizer.normalize(message(rows), "GW", "A1", received_us)
        events += detection.step(found.batch, received_us, T0_US)[0]
    return events


@settings(max_examples=100)
@given(data=st.data(), sent=traffic())
def test_messages_that_come_twice_give_the_same_alarms(data: st.DataObject, sent: list[Sent]) -> None:
    again = []
    for n, (received_us, rows) in enumerate(sent):
        again.append((received_us, rows))
        first = data.draw(st.integers(0, n))
        if data.draw(st.booleans()):
            again += [(received_us, rows) for _, rows in sent[first : n + 1]]  # as after a lost acknowledgement
    assert told(live_events(again)) == told(live_events(sent))


class Shard:
    """What the pipeline and the store do with messages: groups that are detected, stored and fed again."""

    def __init__(self) -> None:
        self.live = Detection(PLAN, "received")
        self.groups: list[tuple[ReadingBatch, int, int]] = []
        self.states: list[bytes] = []
        self.open: list[ReadingBatch] = []

    def take(self, received_us: int, rows: list[tuple[str, int, float]]) -> None:
        found = self.live.normalizer.normalize(message(rows), "GW", "A1", received_us)
        if found.in_doubt and self.open:
            self.close(received_us)
        self.open.append(found.batch)

    def close(self, now_us: int) -> list[ConditionEvent]:
        group, self.open = ReadingBatch.concat(self.open), []
        events, _ = self.live.step(group, now_us, T0_US)
        late = group.take(group.late)
        events += self.live.late(late, now_us) if len(late) else []
        order = np.lexsort((group.ts_us, group.channel_ix))  # all that the store keeps of their order
        self.groups.append((group.take(order), now_us, T0_US))
        return events


@settings(max_examples=100)
@given(data=st.data(), sent=traffic(ahead=(0, 0, 60, 290)))
def test_groups_that_are_fed_again_leave_the_state_of_never_having_stopped(
    data: st.DataObject, sent: list[Sent]
) -> None:
    shard, recovered = Shard(), Detection(PLAN, "received")
    n_fed = 0
    for received_us, rows in sent:
        shard.take(received_us, rows)
        if not data.draw(st.booleans()):
            continue
        shard.close(received_us)
        for group in shard.groups[n_fed:]:
            recovered.relive(*group)
        n_fed = len(shard.groups)
        assert recovered.normalizer.save() == shard.live.normalizer.save()
        assert told_conditions(recovered) == told_conditions(shard.live)
    later = [(sent[-1][0] + n * 20 * SECOND, [("gas", sent[-1][0] + n * 20 * SECOND, 70.0)]) for n in range(1, 20)]
    for received_us, rows in later:
        shard.take(received_us, rows)
        expected = shard.close(received_us)
        for group in shard.groups[n_fed:-1]:
            recovered.relive(*group)
        n_fed = len(shard.groups)
        assert told(recovered.relive(*shard.groups[-1])) == told(expected)


def told_conditions(detection: Detection) -> list[str]:
    return [f"{condition}" for condition in detection.conditions()]


@settings(max_examples=50)
@given(data=st.data(), sent=traffic(ahead=(0, 0, 0, 290)))
def test_a_saved_and_restored_shard_goes_on_as_if_it_had_never_stopped(data: st.DataObject, sent: list[Sent]) -> None:
    running, stopped = Detection(PLAN, "received"), Detection(PLAN, "received")
    for received_us, rows in sent:
        if data.draw(st.booleans()):
            saved = joined(stopped)
            stopped = Detection(PLAN, "received")
            stopped.restore(saved)
        told_by = [fed(detection, received_us, rows) for detection in (running, stopped)]
        assert told(told_by[0]) == told(told_by[1])
        assert joined(stopped) == joined(running)


def joined(detection: Detection) -> bytes:
    from lifeline_stream.core.detection import join_state  # noqa: PLC0415

    return join_state(detection.save_live(), detection.save_history())


def fed(detection: Detection, received_us: int, rows: list[tuple[str, int, float]]) -> list[ConditionEvent]:
    found = detection.normalizer.normalize(message(rows), "GW", "A1", received_us).batch
    late = found.take(found.late)
    events, _ = detection.step(found, received_us, T0_US)
    return events + (detection.late(late, received_us) if len(late) else [])


@settings(max_examples=50)
@given(sent=traffic(ahead=(0, 60, 290)))
def test_late_readings_never_move_the_live_state(sent: list[Sent]) -> None:
    with_late, without = Detection(PLAN, "received"), Detection(PLAN, "received")
    for received_us, rows in sent:
        found = with_late.normalizer.normalize(message(rows), "GW", "A1", received_us).batch
        only_live = found.take((found.quality & LATE) == 0)
        expected = without.step(only_live, received_us, T0_US)
        assert told(with_late.step(found, received_us, T0_US)[0]) == told(expected[0])
    assert told_conditions(with_late) == told_conditions(without)
