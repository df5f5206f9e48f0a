"""The engine equals its scalar twin, and its events depend on no batch, no order of channels and no restart."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.engine import Engine
from lifeline_stream.core.model import ConditionEvent, Quality
from lifeline_stream.core.packs import Pack
from lifeline_stream.core.plan import KINDS, compile_plan
from making import SECOND, T0_US, batch, make_catalog, make_pack, told
from reference import Reading, ReferenceEngine

EVERY_S = 60
SENSORS = [
    {"id": "gas", "plausible": (0, 100), "over_range": "alarm"},
    {"id": "plain", "plausible": (-50, 50)},
    {"id": "wet", "plausible": (0, 1), "states": {"drowned": {"above": 0.5}, "dry": {"below": 0.25}}},
]
CATALOG = make_catalog(("A1", "gas"), ("A1", "wet"), ("A2", "plain"), ("B1", "gas"), ("B2", "plain", 1.0))
"""Gas at A1 has its companion on the device; at B1 there is none; B2 reports every second."""

values = st.one_of(
    st.sampled_from([-10.0, 0.0, 0.8, 1.0, 2.0, 2.5, 5.0, 100.0, 101.0, math.nan, math.inf, -math.inf, 1e308]),
    st.floats(-20, 120, width=16),
)
qualities = st.one_of(st.just(int(Quality.GOOD)), st.sampled_from([int(q) for q in Quality]))
seconds = st.sampled_from([0.0, 1.0, 10.0, 59.5, 60.0, 61.0, 120.0, 180.0, 180.5, 600.0, 5000.0])

SIDES = st.sampled_from(
    [
        {"above": {"yellow": 1.0, "orange": 2.5, "red": 5.0}, "clear_below": 0.8},
        {"above": {"blue": 2.0}},
        {"below": {"orange": 1.0, "red": 0.5}, "clear_above": 2.0},
        {"above": {"yellow": 5.0}, "below": {"yellow": 2.0, "red": 0.0}, "clear_below": 4.0, "clear_above": 2.5},
        {"above": {"red": 5.0}, "below": {"blue": 1.0, "orange": -1.0}, "clear_below": 2.0},
    ],
)
DELAYS = st.fixed_dictionaries(
    {"on_delay_s": st.sampled_from([0, 60, 90, 300]), "off_delay_s": st.sampled_from([0, 60, 150])}
)
NEEDS = st.sampled_from([{}, {"wet": "not drowned"}, {"wet": "dry"}])
SHAPES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "threshold": st.builds(lambda sides, delays, needs: sides | delays | {"needs": needs}, SIDES, DELAYS, NEEDS),
    "rate": st.builds(
        lambda sides, delays, mean: sides | delays | mean,
        SIDES,
        DELAYS,
        st.sampled_from([{"mean_s": 5, "over_s": 5}, {"mean_s": 60, "over_s": 240}, {"mean_s": 300, "over_s": 420}]),
    ),
    "flat": st.fixed_dictionaries(
        {"after_s": st.sampled_from([60, 200]), "tolerance": st.sampled_from([0, 0.5]), "severity": st.just("blue")}
    ),
    "absence": st.fixed_dictionaries(
        {
            "after_intervals": st.sampled_from([2.0, 3.5]),
            "at_least_s": st.sampled_from([0, 200]),
            "severity": st.just("blue"),
        }
    ),
}


@st.composite
def packs(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(SHAPES)) -> Pack:
    detectors = []
    for n, kind in enumerate(kinds):
        sensor = draw(st.sampled_from(["gas", "plain", "*"])) if kind != "threshold" else "gas"
        hold = {"hold_s": draw(st.sampled_from([0, 30, 600]))}
        detectors.append({"id": f"x.d{n}", "kind": kind, "sensor": sensor} | hold | draw(SHAPES[kind]))
    return make_pack(SENSORS, detectors)


@st.composite
def streams(draw: st.DrawFn, most: int = 60) -> list[Reading]:
    """Readings in order of time on every channel, with irregular intervals, gaps and every quality."""
    clocks = [T0_US + draw(st.integers(0, 90)) * SECOND for _ in CATALOG.channels]
    readings = []
    for channel, step_s, value, quality in draw(
        st.lists(st.tuples(st.integers(0, len(clocks) - 1), seconds, values, qualities), max_size=most)
    ):
        clocks[channel] += round(step_s * SECOND) + 1
        readings.append(Reading(channel, clocks[channel], value, quality))
    return readings


def engine(pack: Pack, *, event_time: bool = False, catalog: Catalog = CATALOG) -> Engine:
    return Engine(compile_plan(catalog, [pack], event_time=event_time), event_time=event_time)


def ordered(events: list[ConditionEvent]) -> list[ConditionEvent]:
    return sorted(events, key=lambda e: (e.at_us, e.channel_ix, e.detector))


@st.composite
def cut(draw: st.DrawFn, readings: list[Reading]) -> list[list[Reading]]:
    """The same readings in pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(readings)), max_size=4)))
    bounds = [0, *places, len(readings)]
    return [readings[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize("event_time", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(data=st.data())
def test_every_kernel_equals_its_twin(kind: str, event_time: bool, data: st.DataObject) -> None:  # noqa: FBT001
    pack = data.draw(packs((kind,)))
    fast, slow = engine(pack, event_time=event_time), ReferenceEngine(CATALOG, [pack], event_time=event_time)
    readings = data.draw(streams())
    now_us = T0_US
    for piece in data.draw(cut(readings)):
        now_us = max([now_us, *(r.ts_us for r in piece)]) + data.draw(st.sampled_from([0, 1, 40, 900])) * SECOND
        assert told(fast.step(batch(piece), now_us)) == told(slow.step(piece, now_us))
        watch_from_us = data.draw(st.sampled_from([-1, T0_US, now_us]))
        assert told(fast.advance(now_us, watch_from_us)[0]) == told(slow.advance(now_us, watch_from_us))


@settings(max_examples=100)
@given(data=st.data(), pack=packs(), readings=streams())
def test_a_split_batch_gives_the_same_alarms(data: st.DataObject, pack: Pack, readings: list[Reading]) -> None:
    now_us = max([T0_US, *(r.ts_us for r in readings)])
    tame = [r._replace(value=min(r.value, 4.9)) if r.channel == 0 and pack.detector[0].needs else r for r in readings]
    whole, parts = engine(pack), engine(pack)
    expected = whole.step(batch(tame), now_us) + whole.advance(now_us + 3600 * SECOND)[0]
    found = [e for piece in data.draw(cut(tame)) for e in parts.step(batch(piece), now_us)]
    found += parts.advance(now_us + 3600 * SECOND)[0]
    assert told(ordered(found)) == told(ordered(expected))


@settings(max_examples=100)
@given(data=st.data(), pack=packs(), readings=streams())
def test_shuffled_channels_give_the_same_alarms(data: st.DataObject, pack: Pack, readings: list[Reading]) -> None:
    now_us = max([T0_US, *(r.ts_us for r in readings)])
    order = data.draw(st.permutations([r.channel for r in readings]))
    of_channel = {c.ix: iter([r for r in readings if r.channel == c.ix]) for c in CATALOG.channels}
    shuffled = [next(of_channel[ix]) for ix in order]
    straight, mixed = engine(pack), engine(pack)
    assert told(mixed.step(batch(shuffled), now_us)) == told(straight.step(batch(readings), now_us))
    later_us = now_us + 3600 * SECOND
    assert told(mixed.advance(later_us)[0]) == told(straight.advance(later_us)[0])


@settings(max_examples=100)
@given(data=st.data(), pack=packs(), readings=streams())
def test_a_saved_and_restored_engine_goes_on_as_if_it_had_never_stopped(
    data: st.DataObject, pack: Pack, readings: list[Reading]
) -> None:
    running = engine(pack)
    stopped = engine(pack)
    for piece in data.draw(cut(readings)):
        now_us = max([T0_US, *(r.ts_us for r in piece)])
        state = stopped.save()
        stopped = engine(pack)
        stopped.restore(state)
        assert told(stopped.step(batch(piece), now_us)) == told(running.step(batch(piece), now_us))
        assert told(stopped.advance(now_us, T0_US)[0]) == told(running.advance(now_us, T0_US)[0])
        assert list(stopped.active()) == list(running.active())
        assert stopped.save() == running.save()


@settings(max_examples=30)
@given(pack=packs(), readings=streams(most=20))
def test_the_size_of_the_event_buffer_changes_nothing(pack: Pack, readings: list[Reading]) -> None:
    roomy, tight = engine(pack), engine(pack)
    tight._out = tight._out[:2]
    now_us = T0_US + 10_000 * SECOND
    assert told(tight.step(batch(readings), now_us)) == told(roomy.step(batch(readings), now_us))
    assert told(tight.advance(now_us, T0_US)[0]) == told(roomy.advance(now_us, T0_US)[0])


@settings(max_examples=100)
@given(pack=packs(("absence", "flat", "rate")), readings=streams())
def test_a_trace_gives_the_same_alarms_at_once_as_reading_by_reading(pack: Pack, readings: list[Reading]) -> None:
    in_time = sorted(readings, key=lambda r: r.ts_us)
    at_once, singly = engine(pack, event_time=True), engine(pack, event_time=True)
    end_us = max([T0_US, *(r.ts_us for r in in_time)])
    expected = at_once.step(batch(in_time), end_us) + at_once.finish(end_us)
    found = [e for r in in_time for e in singly.step(batch([r]), r.ts_us) + singly.advance(r.ts_us)[0]]
    assert told(ordered(found + singly.finish(end_us))) == told(ordered(expected))
