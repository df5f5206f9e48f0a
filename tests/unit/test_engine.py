"""What the engine must do in the cases that matter most, reasoned by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lifeline_stream.core.engine import Engine
from lifeline_stream.core.model import ConditionEvent, EventKind, Quality, Severity
from lifeline_stream.core.packs import Pack
from lifeline_stream.core.plan import compile_plan
from making import SECOND, T0_US, batch, make_catalog, make_pack, short
from reference import Reading

GAS, WET = 0, 1
CITY = make_catalog(("A1", "gas"), ("A1", "wet"), ("B1", "gas"))
"""A chamber with its companion, and one without."""
SENSORS = [
    {"id": "gas", "plausible": (0, 100), "over_range": "alarm"},
    {"id": "wet", "plausible": (0, 1), "states": {"drowned": {"above": 0.5}}},
]
HIGH = {"id": "x.gas.high", "kind": "threshold", "sensor": "gas", "above": {"yellow": 1.0, "orange": 2.5, "red": 5.0}}
HIGH |= {"clear_below": 0.8}
DRY_ONLY = {"needs": {"wet": "not drowned"}, "hold_s": 30}
LOW = {"id": "x.gas.low", "kind": "threshold", "sensor": "gas", "below": {"orange": 18, "red": 16}}
UNBELIEVED = [q for q in Quality if q not in (Quality.GOOD, Quality.SUSPECT, Quality.MANUAL, Quality.OVER_RANGE)]


class Bench:
    """An engine on the bench: readings and clocks in seconds from a start."""

    def __init__(self, *detectors: dict[str, Any], event_time: bool = False) -> None:
        """Start with nothing seen."""
        self.pack = make_pack(SENSORS, detectors)
        self.engine = Engine(compile_plan(CITY, [self.pack], event_time=event_time), event_time=event_time)

    def feed(self, *rows: tuple[int, float, float] | tuple[int, float, float, int]) -> list[tuple[str, int, float]]:
        """Readings of (channel, second, value[, quality]) as one batch, received at the last of their times."""
        readings = [Reading(c, T0_US + round(s * SECOND), v, q[0] if q else 0) for c, s, v, *q in rows]
        return short(self.engine.step(batch(readings), max(r.ts_us for r in readings)))

    def wait(self, now_s: float, watch_from_s: float | None = None) -> list[tuple[str, int, float]]:
        """Let the timers fire."""
        watch_from_us = -1 if watch_from_s is None else T0_US + round(watch_from_s * SECOND)
        return short(self.engine.advance(T0_US + round(now_s * SECOND), watch_from_us)[0])

    def minutes(self, values: list[float], start_s: float = 0) -> list[tuple[str, int, float]]:
        """One gas reading a minute."""
        return self.feed(*((GAS, start_s + 60 * n, value) for n, value in enumerate(values)))


# ── over range ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_over_range_gas_reading_alarms() -> None:
    assert Bench(HIGH).feed((GAS, 0, 104.0, Quality.OVER_RANGE)) == [("raised", 4, 0)]


def test_an_over_range_reading_clears_nothing_whatever_side_the_alarm_is_on() -> None:
    bench = Bench(LOW)
    assert bench.feed((GAS, 0, 15.0)) == [("raised", 4, 0)]
    assert bench.feed(*((GAS, 60 * n, 104.0, Quality.OVER_RANGE) for n in range(1, 30))) == []
    assert bench.feed((GAS, 1800, 20.9)) == [("cleared", 4, 1800)]


def test_an_over_range_reading_of_another_sensor_type_moves_nothing() -> None:
    wet = {"id": "x.wet", "kind": "threshold", "sensor": "wet", "above": {"red": 0.9}}
    assert Bench(wet).feed((WET, 0, 5.0, Quality.OVER_RANGE)) == []


def test_a_rate_alarm_does_not_clear_because_the_sensor_stays_at_its_end() -> None:
    rate = {"id": "x.rate", "kind": "rate", "sensor": "gas", "mean_s": 60, "over_s": 60, "above": {"red": 20}}
    bench = Bench(rate)
    assert [kind for kind, *_ in bench.minutes([0, 0, 30, 60, 90])] == ["raised"]
    assert bench.feed(*((GAS, 300 + 60 * n, 104.0, Quality.OVER_RANGE) for n in range(30))) == []


# ── who may clear ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("quality", UNBELIEVED)
def test_a_faulty_or_stale_sensor_neither_raises_nor_clears(quality: Quality) -> None:
    bench = Bench(HIGH)
    assert bench.feed((GAS, 0, 6.0, quality)) == []
    assert bench.feed((GAS, 60, 6.0)) == [("raised", 4, 60)]
    assert bench.feed(*((GAS, 120 + 60 * n, 0.0, quality) for n in range(20))) == []
    assert bench.feed((GAS, 1320, 0.0)) == [("cleared", 4, 1320)]


@pytest.mark.parametrize("quality", list(Quality))
def test_no_number_moves_nothing_whatever_its_flag(quality: Quality) -> None:
    bench = Bench(HIGH)
    assert bench.feed((GAS, 0, 6.0)) == [("raised", 4, 0)]
    assert bench.feed((GAS, 60, math.nan, quality)) == []
    assert bench.feed((GAS, 120, 0.0)) == [("cleared", 4, 120)]


def test_a_drowned_sensor_neither_raises_nor_clears() -> None:
    bench = Bench(HIGH | DRY_ONLY)
    assert bench.feed((WET, 0, 1.0), (GAS, 0, 3.0)) == []
    assert bench.feed((WET, 60, 0.0), (GAS, 60, 3.0)) == [("raised", 3, 60)]
    assert bench.feed((WET, 120, 1.0), (GAS, 120, 0.0)) == []
    assert bench.wait(3600) == []
    assert bench.feed((WET, 3660, 0.0), (GAS, 3660, 0.0)) == [("cleared", 3, 3660)]


def test_silence_clears_nothing() -> None:
    bench = Bench(HIGH)
    assert bench.feed((GAS, 0, 6.0)) == [("raised", 4, 0)]
    assert bench.wait(86_400) == []
    assert [severity for _, _, severity in bench.engine.active()] == [Severity.RED]


# ── the gate ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reading_waits_until_its_companion_has_reached_its_time() -> None:
    bench = Bench(HIGH | DRY_ONLY)
    assert bench.feed((GAS, 60, 3.0)) == []
    assert bench.feed((WET, 59, 0.0)) == []
    assert bench.feed((WET, 61, 0.0)) == [("raised", 3, 60)]


def test_a_companion_is_read_as_of_the_reading_s_own_time() -> None:
    bench = Bench(HIGH | DRY_ONLY)
    bench.feed((WET, 0, 0.0))
    assert bench.feed((GAS, 60, 3.0)) == []
    assert bench.feed((WET, 61, 1.0)) == [("raised", 3, 60)]  # drowned after it was measured
    assert bench.feed((GAS, 62, 0.0), (WET, 63, 0.0)) == []  # drowned when it was measured


def test_a_companion_that_never_comes_is_unknown_after_the_hold() -> None:
    bench = Bench(HIGH | DRY_ONLY)
    assert bench.feed((GAS, 60, 3.0)) == []
    assert bench.wait(89) == []
    assert bench.wait(90) == [("raised", 3, 60)]


def test_a_red_reading_never_waits_and_takes_those_before_it_along() -> None:
    bench = Bench(HIGH | DRY_ONLY)
    assert bench.feed((GAS, 0, 3.0)) == []
    assert bench.feed((GAS, 60, 5.0)) == [("raised", 3, 0), ("escalated", 4, 60)]


def test_a_red_value_that_is_not_believed_waits_like_any_other() -> None:
    bench = Bench(HIGH | DRY_ONLY)
    assert bench.feed((GAS, 0, 3.0)) == []
    assert bench.feed((GAS, 1, 9.0, Quality.BAD)) == []
    assert bench.feed((WET, 2, 1.0), (WET, 3, 0.0)) == [("raised", 3, 0)]


def test_a_channel_without_the_companion_alarms_at_once() -> None:
    assert Bench(HIGH | DRY_ONLY).feed((2, 0, 3.0)) == [("raised", 3, 0)]


def test_a_companion_without_worth_moves_on_without_changing_its_word() -> None:
    bench = Bench(HIGH | DRY_ONLY)
    assert bench.feed((WET, 0, 1.0), (WET, 60, 0.0, Quality.BAD), (GAS, 60, 3.0)) == []
    assert bench.wait(3600) == []
    assert bench.feed((WET, 3600, 0.0), (GAS, 3600, 3.0)) == [("raised", 3, 3600)]


def test_in_one_batch_the_companion_is_known_whatever_comes_first() -> None:
    for rows in ([(WET, 0, 1.0), (GAS, 0, 9.0)], [(GAS, 0, 9.0), (WET, 0, 1.0)]):
        assert Bench(HIGH | DRY_ONLY).feed(*rows) == []


def test_a_reading_that_waits_has_been_reported() -> None:
    silent = {"id": "x.silent", "kind": "absence", "sensor": "gas", "severity": "blue", "at_least_s": 0}
    bench = Bench(HIGH | DRY_ONLY | {"hold_s": 3600}, silent)
    bench.feed((GAS, 0, 0.1), (GAS, 60, 0.1))
    assert bench.wait(200) == []
    assert bench.wait(241) == [("raised", 1, 240)]


# ── durations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_delay_counts_only_while_readings_come() -> None:
    bench = Bench(HIGH | {"on_delay_s": 120})
    assert bench.minutes([3.0, 3.0]) == []  # 60 s past the limit
    assert bench.feed((GAS, 60 + 181, 3.0)) == []  # a gap of more than three intervals adds nothing
    assert bench.feed((GAS, 241 + 59, 3.0)) == []  # 119 s
    assert bench.feed((GAS, 300 + 1, 3.0)) == [("raised", 3, 301)]


def test_a_gap_of_three_intervals_still_counts() -> None:
    bench = Bench(HIGH | {"on_delay_s": 180})
    assert bench.feed((GAS, 0, 3.0)) == []
    assert bench.feed((GAS, 180, 3.0)) == [("raised", 3, 180)]


def test_the_onset_is_the_first_reading_of_the_excursion() -> None:
    bench = Bench(HIGH | {"on_delay_s": 120})
    bench.minutes([0.1, 3.0, 0.1, 3.0, 3.0])
    (event,) = bench.engine.step(batch([Reading(GAS, T0_US + 300 * SECOND, 3.0, 0)]), T0_US + 300 * SECOND)
    assert (event.onset_us - T0_US) / SECOND == 180


def test_a_grade_falls_after_its_delay_within_the_dead_band() -> None:
    bench = Bench(HIGH | {"off_delay_s": 120})
    assert bench.minutes([6.0]) == [("raised", 4, 0)]
    assert bench.feed((GAS, 60, 4.9), (GAS, 120, 4.9), (GAS, 180, 4.9), (GAS, 240, 4.9)) == []  # 4.8 is the band of red
    assert bench.feed((GAS, 300, 4.7), (GAS, 360, 4.7)) == []
    assert bench.feed((GAS, 420, 4.7)) == [("deescalated", 3, 420)]


def test_a_clear_skips_the_steps_between() -> None:
    bench = Bench(HIGH | {"off_delay_s": 60})
    assert bench.minutes([6.0, 0.1, 0.1]) == [("raised", 4, 0), ("cleared", 4, 120)]


def test_an_alarm_climbs_from_grade_to_grade_under_one_id() -> None:
    bench = Bench(HIGH)
    rows = [Reading(GAS, T0_US + 60 * n * SECOND, value, 0) for n, value in enumerate([1.0, 2.5, 5.0, 0.1])]
    events = bench.engine.step(batch(rows), rows[-1].ts_us)
    assert [(e.kind, e.severity, e.limit) for e in events] == [
        (EventKind.RAISED, Severity.YELLOW, 1.0),
        (EventKind.ESCALATED, Severity.ORANGE, 2.5),
        (EventKind.ESCALATED, Severity.RED, 5.0),
        (EventKind.CLEARED, Severity.RED, pytest.approx(0.8)),
    ]
    assert len({e.alarm_id for e in events}) == 1
    assert len({e.event_id for e in events}) == 4


# ── absence ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SILENT = {"id": "x.silent", "kind": "absence", "sensor": "gas", "severity": "blue", "at_least_s": 0}


def test_a_silence_is_found_by_the_timer_and_ended_by_a_reading() -> None:
    bench = Bench(SILENT)
    bench.feed((GAS, 0, 0.1))
    assert bench.wait(180) == []
    assert bench.wait(200) == [("raised", 1, 180)]
    assert bench.wait(500) == []
    assert bench.feed((GAS, 600, 0.1)) == [("cleared", 1, 600)]


def test_a_silence_starts_anew_when_the_source_resumes() -> None:
    bench = Bench(SILENT)
    bench.feed((GAS, 0, 0.1))
    assert bench.wait(400, watch_from_s=300) == []
    assert [(kind, at_s) for kind, _, at_s in bench.wait(481, watch_from_s=300)] == [("raised", 480.0)] * 2


def test_a_channel_that_never_reported_is_due_from_the_start_of_the_watch() -> None:
    bench = Bench(SILENT)
    assert bench.wait(86_400) == []
    assert bench.wait(86_400, watch_from_s=86_300) == []
    assert [kind for kind, *_ in bench.wait(86_481, watch_from_s=86_300)] == ["raised"] * 2


@pytest.mark.parametrize("quality", [Quality.STALE, Quality.COMMS_FAULT, Quality.MISSING])
def test_a_reading_without_a_measurement_is_no_sign_of_life(quality: Quality) -> None:
    bench = Bench(SILENT)
    bench.feed((GAS, 0, 0.1), (GAS, 100, 0.1, quality))
    assert bench.wait(181) == [("raised", 1, 180)]


def test_in_event_time_the_next_reading_reveals_the_silence() -> None:
    bench = Bench(SILENT, event_time=True)
    bench.feed((GAS, 0, 0.1))
    assert bench.feed((GAS, 600, 0.1)) == [("raised", 1, 180), ("cleared", 1, 600)]


# ── other declarations ───────────────────────────────────────────────────────────────────────────────────────────────


def adopted(bench: Bench, *detectors: dict[str, Any]) -> tuple[Bench, list[str]]:
    after = Bench(*detectors)
    lost = after.engine.adopt(bench.engine)
    return after, [watch.detector.id for watch in lost]


def test_a_changed_limit_keeps_the_alarm() -> None:
    bench = Bench(HIGH)
    bench.feed((GAS, 0, 3.0))
    after, lost = adopted(bench, HIGH | {"above": {"yellow": 0.5, "orange": 2.0, "red": 4.0}, "clear_below": 0.4})
    assert lost == []
    assert after.feed((GAS, 60, 0.1)) == [("cleared", 3, 60)]


def test_a_grade_that_is_no_more_is_left_at_the_next_reading() -> None:
    bench = Bench(HIGH)
    bench.feed((GAS, 0, 6.0))
    after, lost = adopted(bench, HIGH | {"above": {"yellow": 1.0}, "off_delay_s": 600})
    assert lost == []
    assert after.feed((GAS, 60, 6.0)) == [("deescalated", 2, 60)]


def test_an_alarm_of_a_removed_detector_is_handed_back() -> None:
    bench = Bench(HIGH, LOW)
    bench.feed((GAS, 0, 6.0))
    _, lost = adopted(bench, HIGH | {"id": "x.gas.other"})
    assert sorted(lost) == ["x.gas.high", "x.gas.low"]


def test_a_detector_whose_shape_changed_starts_anew_and_the_others_go_on() -> None:
    rate = {"id": "x.rate", "kind": "rate", "sensor": "gas", "mean_s": 60, "over_s": 60, "above": {"red": 20}}
    bench = Bench(HIGH, rate)
    bench.minutes([0, 0, 30, 60, 90])
    after, lost = adopted(bench, HIGH, rate | {"over_s": 120})
    assert lost == ["x.rate"]
    assert after.feed((GAS, 600, 0.1)) == [("cleared", 4, 600)]


def test_a_detector_that_leaves_its_trial_tells_what_holds() -> None:
    bench = Bench(HIGH | {"status": "trial"})
    (event,) = bench.engine.step(batch([Reading(GAS, T0_US, 6.0, 0)]), T0_US)
    assert event.trial
    after, lost = adopted(bench, HIGH)
    assert lost == ["x.gas.high"]
    assert after.feed((GAS, 60, 6.0)) == [("raised", 4, 60)]


def test_a_state_of_another_plan_is_refused() -> None:
    state = Bench(HIGH).engine.save()
    with pytest.raises(ValueError, match="does not fit this plan"):
        Bench(HIGH, LOW).engine.restore(state)


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_batch_gives_nothing() -> None:
    engine = Bench(HIGH, SILENT).engine
    assert engine.step(batch([]), T0_US) == []
    assert engine.advance(T0_US) == ([], False)


def test_events_come_in_order_of_time_and_channel() -> None:
    bench = Bench(HIGH)
    rows = [Reading(2, T0_US + SECOND, 3.0, 0), Reading(GAS, T0_US + SECOND, 3.0, 0), Reading(GAS, T0_US + 2, 3.0, 0)]
    events: list[ConditionEvent] = bench.engine.step(batch(rows), T0_US + SECOND)
    assert [(e.at_us - T0_US, e.channel_ix) for e in events] == sorted((e.at_us - T0_US, e.channel_ix) for e in events)
    assert len(events) == 2


def test_more_events_than_the_buffer_holds_all_come() -> None:
    bench = Bench(HIGH)
    values = [6.0, 0.0] * 5000
    assert len(bench.minutes(values)) == 10_000


def test_a_pack_may_not_need_more_than_a_byte_holds() -> None:
    states = {f"s{n}": {"above": n} for n in range(9)}
    needy = [HIGH | {"id": f"x.d{n}", "needs": {"wet": f"s{n}"}} for n in range(9)]
    pack: Pack = make_pack([SENSORS[0], SENSORS[1] | {"states": states}], needy)
    assert ("sensor[gas]", "its detectors have 9 different needs; at most 8") in pack.problems()
