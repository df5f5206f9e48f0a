"""A shard as one thing: late readings, the history pass, the clock, and feeding stored groups again."""

from __future__ import annotations

import numpy as np
import pytest

from lifeline_stream.core.detection import Clock, Detection, join_state, readings_of, withdrawn
from lifeline_stream.core.model import BACKFILL, LATE, Block, ConditionEvent, EventKind, ReadingBatch
from lifeline_stream.core.plan import compile_plan
from making import SECOND, T0_US, batch, make_catalog, make_pack, message, short, told
from reference import Reading

SENSORS = [
    {"id": "gas", "plausible": (0, 100), "over_range": "alarm"},
    {"id": "wet", "plausible": (0, 1), "states": {"drowned": {"above": 0.5}}},
]
HIGH = {"id": "x.high", "kind": "threshold", "sensor": "gas", "above": {"yellow": 1.0, "red": 5.0}, "clear_below": 0.8}
NEEDY = HIGH | {"id": "x.needy", "needs": {"wet": "not drowned"}, "hold_s": 3600}
CITY = make_catalog(("A1", "gas"), ("A1", "wet"), ("B1", "gas"))


def shard(*detectors: dict[str, object], clock: Clock = "received") -> Detection:
    pack = make_pack(SENSORS, detectors or [HIGH])
    return Detection(compile_plan(CITY, [pack], event_time=clock == "event"), clock)


def arrive(detection: Detection, *rows: tuple[str, float, float], at_s: float, quality: int = 0) -> ReadingBatch:
    """Readings of (name, second, value) in one message."""
    decoded = message([(name, T0_US + round(s * SECOND), value) for name, s, value in rows], quality=quality)
    return detection.normalizer.normalize(decoded, "GW", "A1", T0_US + round(at_s * SECOND)).batch


def fed(detection: Detection, found: ReadingBatch, now_s: float) -> list[ConditionEvent]:
    return detection.step(found, T0_US + round(now_s * SECOND), -1)[0]


def test_a_late_reading_raises_in_the_history_pass_only() -> None:
    detection = shard()
    fed(detection, arrive(detection, ("gas", 60, 0.1), at_s=60), 60)
    late = arrive(detection, ("gas", 30, 6.0), at_s=61)
    assert late.late.tolist() == [True]
    assert fed(detection, late, 61) == []
    events = detection.late(late, T0_US + 61 * SECOND)
    assert [(e.kind, e.severity, e.late) for e in events] == [(EventKind.RAISED, 4, True)]
    assert detection.conditions() == []


def test_a_late_reading_never_clears_a_present_alarm_nor_resets_its_timer() -> None:
    detection = shard(HIGH | {"off_delay_s": 120})
    assert short(fed(detection, arrive(detection, ("gas", 0, 6.0), at_s=0), 0)) == [("raised", 4, 0)]
    fed(detection, arrive(detection, ("gas", 60, 0.1), at_s=60), 60)
    late = arrive(detection, ("gas", 50, 0.1), ("gas", 55, 6.0), at_s=70)
    assert fed(detection, late, 70) == []
    detection.late(late, T0_US + 70 * SECOND)
    assert [c.severity for c in detection.conditions()] == [4]
    assert fed(detection, arrive(detection, ("gas", 120, 0.1), at_s=120), 120) == []
    assert short(fed(detection, arrive(detection, ("gas", 180, 0.1), at_s=180), 180)) == [("cleared", 4, 180)]


def test_a_backfill_is_looked_at_in_order_of_time() -> None:
    detection = shard()
    found = arrive(detection, ("gas", -60, 0.1), ("gas", -120, 6.0), ("gas", -180, 0.1), at_s=0, quality=BACKFILL)
    events = detection.late(found, T0_US)
    assert short(events) == [("raised", 4, -120), ("cleared", 4, -60)]


def test_the_history_pass_waits_for_nobody() -> None:
    detection = shard(NEEDY)
    found = arrive(detection, ("gas", -60, 3.0), at_s=0, quality=BACKFILL)
    assert short(detection.late(found, T0_US)) == [("raised", 2, -60)]


def test_the_history_pass_knows_the_companions_that_came_along() -> None:
    detection = shard(NEEDY)
    found = arrive(detection, ("gas", -60, 3.0), ("wet", -60, 1.0), at_s=0, quality=BACKFILL)
    assert detection.late(found, T0_US) == []


def test_live_and_history_find_different_alarms_of_one_excursion_in_different_order() -> None:
    detection = shard()
    live = fed(detection, arrive(detection, ("gas", 60, 6.0), at_s=60), 60)
    late = detection.late(arrive(detection, ("gas", 0, 6.0), at_s=61), T0_US + 61 * SECOND)
    assert len({e.alarm_id for e in live + late}) == 2


def test_a_stored_group_fed_again_gives_the_same_events_and_conditions() -> None:
    live, again = shard(NEEDY, HIGH), shard(NEEDY, HIGH)
    rows = [("gas", 10.0, 0.1), ("wet", 10.0, 0.0), ("gas", 20.0, 6.0), ("B1/gas", 20.0, 3.0), ("wet", 20.0, 1.0)]
    found = ReadingBatch.concat(
        [arrive(live, *rows, at_s=20), arrive(live, ("gas", 5, 9.0), ("B1/gas", 21, 0.1), at_s=21)]
    )
    expected = fed(live, found, 21) + live.late(found.take(found.late), T0_US + 21 * SECOND)
    stored = found.take(np.lexsort((found.ts_us, found.channel_ix)))
    assert told(again.relive(stored, T0_US + 21 * SECOND, -1)) == told(expected)
    assert again.conditions() == live.conditions()
    assert again.normalizer.save() == live.normalizer.save()


def test_late_readings_that_history_has_seen_are_not_fed_again() -> None:
    detection = shard()
    late = batch([Reading(0, T0_US, 6.0, LATE)])
    assert detection.relive(late, T0_US, -1, with_late=False) == []
    assert [e.late for e in detection.relive(late, T0_US, -1)] == [True]


def test_the_clock_of_a_trace_is_its_greatest_time_also_after_a_restart() -> None:
    running = shard(clock="event")
    assert running.now_us(0, batch([Reading(0, T0_US + 9, 0.1, 0), Reading(0, T0_US, 0.1, 0)])) == T0_US + 9
    assert running.now_us(0, ReadingBatch.empty()) == T0_US + 9
    restored = shard(clock="event")
    restored.restore(join_state(running.save_live(), running.save_history()))
    assert restored.now_us(0, ReadingBatch.empty()) == T0_US + 9
    relived = shard(clock="event")
    relived.relive(ReadingBatch.empty(), T0_US + 9, -1)
    assert relived.now_us(0, ReadingBatch.empty()) == T0_US + 9


def test_received_time_is_the_clock_of_a_live_shard() -> None:
    assert shard().now_us(5, batch([Reading(0, T0_US, 0.1, 0)])) == 5


@pytest.mark.parametrize("n_samples", [1, 50])
def test_a_waveform_leaves_the_same_arrival_when_it_is_fed_again(n_samples: int) -> None:
    live, again = shard(), shard()
    decoded = message([])
    decoded.names, decoded.units = ["gas"], [None]
    decoded.blocks.append((0, T0_US, 37.0, np.linspace(0.1, 0.3, n_samples), 0))
    found = live.normalizer.normalize(decoded, "GW", "A1", T0_US + 60 * SECOND)
    again.relive(readings_of(found.batch, found.blocks), T0_US + 60 * SECOND, -1)
    assert again.normalizer.save() == live.normalizer.save()


def test_samples_of_a_waveform_meet_the_detectors_at_their_times() -> None:
    samples = np.array([0.1, 0.1, 6.0, 0.1], np.float32)
    block = Block(0, T0_US, 2.0, samples)
    events = fed(shard(), readings_of(ReadingBatch.empty(), [block]), 2)
    assert short(events) == [("raised", 4, 1.0), ("cleared", 4, 1.5)]


def test_the_end_of_a_withdrawn_alarm_keeps_its_identity() -> None:
    detection = shard()
    (raised,) = fed(detection, arrive(detection, ("gas", 0, 6.0), at_s=0), 0)
    (condition,) = detection.conditions()
    end = withdrawn(condition, T0_US + 5)
    assert (end.alarm_id, end.kind, end.severity, end.at_us) == (raised.alarm_id, EventKind.WITHDRAWN, 4, T0_US + 5)


def test_a_shard_goes_on_under_other_declarations() -> None:
    old = shard()
    fed(old, arrive(old, ("gas", 0, 6.0), ("B1/gas", 0, 0.1), at_s=0), 0)
    new = shard(HIGH | {"above": {"red": 4.0}})
    assert new.adopt(old) == []
    assert arrive(new, ("gas", 0, 6.0), at_s=1).ts_us.tolist() == []  # a duplicate is still known
    assert short(fed(new, arrive(new, ("gas", 60, 0.1), at_s=60), 60)) == [("cleared", 4, 60)]
