"""From decoded rows to canonical readings: names, units, owners, order, arrival, and a reason for each refusal."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.model import BACKFILL, LATE, RESTARTED, Decoded, Quality, RejectReason
from lifeline_stream.core.normalize import GATEWAY_LAG_UNKNOWN, MOST_REJECTS, Normalized, Normalizer
from making import SECOND, T0_US, make_catalog, make_pack, message

METHANE = {"molar_mass_g_per_mol": 16.043, "lel_percent_vol": 5.0}
PACK = make_pack(
    [
        {"id": "gas", "quantity": "gas_fraction", "unit": "%VOL", "plausible": (0, 100), "aliases": ["CH4", "甲烷浓度"]}
        | {"substance": METHANE, "over_range": "alarm"},
        {"id": "heat", "quantity": "temperature", "unit": "°C", "plausible": (-40, 90), "aliases": ["水温"]},
        {"id": "strain", "quantity": "strain", "unit": "µε", "plausible": (-5000, 5000), "high_rate": True},
    ],
)
CITY = make_catalog(("A1", "gas"), ("A1", "heat"), ("B2", "gas"), ("B1", "strain"))
CITY = replace(
    CITY,
    channels=(
        *CITY.channels[:2],
        replace(CITY.channels[2], gateway="OTHER"),
        *CITY.channels[3:],
        replace(CITY.channels[0], id="C1/raw", ix=4, device="C1", code="AI01", unit="ppm"),
    ),
)


def normalizer(city: Catalog = CITY) -> Normalizer:
    return Normalizer(city, [PACK])


def taken(*rows: tuple[str, int, float], device: str = "A1", gateway: str = "GW", unit: str = "") -> Normalized:
    """One message to a fresh normaliser, in seconds from the time it is received."""
    at = [(name, T0_US + offset_s * SECOND, value) for name, offset_s, value in rows]
    decoded = message(at, units={name: unit for name, _, _ in rows if unit})
    return normalizer().normalize(decoded, gateway, device, T0_US)


class Gateway:
    """One channel of a normaliser, fed message by message with times in seconds."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.normalizer = normalizer()

    def send(self, *rows: tuple[float, float], at_s: float, quality: int = 0) -> Normalized:
        """Readings of (time, value), received at a time."""
        decoded = message([("gas", T0_US + round(s * SECOND), value) for s, value in rows], quality=quality)
        return self.normalizer.normalize(decoded, "GW", "A1", T0_US + round(at_s * SECOND))

    @property
    def newest_s(self) -> float:
        """Of the channel."""
        return (int(self.normalizer.newest_us()[0]) - T0_US) / SECOND


def reasons(found: Normalized) -> list[RejectReason]:
    return [reject.reason for reject in found.rejects]


def arrived(found: Normalized) -> list[int]:
    """The arrival bits of each reading that was kept."""
    return (found.batch.quality & (LATE | RESTARTED | BACKFILL)).tolist()


@pytest.mark.parametrize("name", ["gas", "CH4", "甲烷浓度", "x.gas", "A1/gas", "A1/甲烷浓度"])
def test_a_channel_is_found_by_id_or_alias_in_either_language(name: str) -> None:
    found = taken((name, 0, 1.5))
    assert found.rejects == []
    assert (found.batch.channel_ix.tolist(), found.batch.value.tolist()) == ([0], [1.5])


def test_a_channel_with_a_code_is_known_by_its_code_and_states_its_unit_once() -> None:
    found = taken(("AI01", 0, 10_000.0), device="C1")
    assert (found.batch.channel_ix.tolist(), found.batch.value.tolist()) == ([4], [pytest.approx(1.0)])
    assert reasons(taken(("CH4", 0, 1.0), device="C1")) == [RejectReason.UNKNOWN_CHANNEL]


@pytest.mark.parametrize(
    ("name", "unit", "sent", "stored"),
    [
        ("CH4", "%LEL", 20.0, 1.0),
        ("CH4", "ppm", 500.0, 0.05),
        ("水温", "°F", 212.0, 100.0),
        ("水温", "K", 283.15, 10.0),
    ],
)
def test_values_become_canonical(name: str, unit: str, sent: float, stored: float) -> None:
    assert taken((name, 0, sent), unit=unit).batch.value.tolist() == [pytest.approx(stored)]


def test_columns_have_their_types_and_times_rise() -> None:
    found = taken(("gas", -1, 2.0), ("heat", -3, 20.0), ("gas", -2, 1.0))
    columns = (found.batch.channel_ix, found.batch.ts_us, found.batch.value, found.batch.quality)
    assert [column.dtype for column in columns] == [np.int32, np.int64, np.float64, np.uint8]
    assert found.batch.ts_us.tolist() == [T0_US - s * SECOND for s in (3, 2, 1)]
    assert found.batch.value.tolist() == [20.0, 1.0, 2.0]


def test_a_foreign_unit_is_refused_with_the_unit_that_is_expected() -> None:
    found = taken(("gas", 0, 1.0), unit="kPa")
    assert reasons(found) == [RejectReason.FOREIGN_UNIT]
    assert "'kPa' measures pressure" in found.rejects[0].detail
    assert "x.gas is in %VOL" in found.rejects[0].detail


def test_an_unknown_unit_is_foreign_too() -> None:
    assert reasons(taken(("gas", 0, 1.0), unit="furlong")) == [RejectReason.FOREIGN_UNIT]


def test_a_device_of_another_gateway_is_refused() -> None:
    for found in (taken(("B2/gas", 0, 1.0)), taken(("gas", 0, 1.0), device="B2")):
        assert reasons(found) == [RejectReason.FOREIGN_DEVICE]
        assert "'GW'" in found.rejects[0].detail
    assert taken(("gas", 0, 1.0), device="B2", gateway="OTHER").rejects == []


def test_an_unknown_channel_and_an_unknown_device_are_told_apart() -> None:
    found = taken(("humidity", 0, 1.0), ("Z9/gas", 0, 1.0), ("humidity", 1, 1.0))
    assert reasons(found) == [RejectReason.UNKNOWN_CHANNEL] * 2
    assert [reject.n_readings for reject in found.rejects] == [2, 1]
    assert "has no channel 'humidity'" in found.rejects[0].detail
    assert "no device 'Z9'" in found.rejects[1].detail


def test_the_rest_of_a_message_is_kept() -> None:
    found = taken(("humidity", 0, 1.0), ("gas", 0, 2.0), ("heat", 400, 1.0))
    assert found.batch.value.tolist() == [2.0]
    assert set(reasons(found)) == {RejectReason.UNKNOWN_CHANNEL, RejectReason.CLOCK_FUTURE}


@pytest.mark.parametrize(("ahead_s", "refused"), [(300, []), (301, [RejectReason.CLOCK_FUTURE])])
def test_five_minutes_ahead_is_the_most(ahead_s: int, refused: list[RejectReason]) -> None:
    assert reasons(taken(("gas", ahead_s, 1.0))) == refused


def test_a_refused_time_never_becomes_the_newest() -> None:
    gateway = Gateway()
    assert reasons(gateway.send((301, 1.0), at_s=0)) == [RejectReason.CLOCK_FUTURE]
    assert reasons(gateway.send((-T0_US / SECOND, 1.0), at_s=0)) == [RejectReason.CLOCK_PAST]
    assert arrived(gateway.send((0, 1.0), at_s=0)) == [0]


def test_1970_and_2100_are_refused() -> None:
    y1970, y2100 = 0, 4_102_444_800_000_000
    found = normalizer().normalize(message([("gas", y1970, 1.0), ("gas", y2100, 1.0)]), "GW", "A1", T0_US)
    assert set(reasons(found)) == {RejectReason.CLOCK_PAST, RejectReason.CLOCK_FUTURE}
    assert len(found.batch) == 0


def test_the_first_moment_of_2000_is_a_time() -> None:
    y2000 = 946_684_800_000_000
    found = normalizer().normalize(message([("gas", y2000 - 1, 1.0), ("gas", y2000, 1.0)]), "GW", "A1", T0_US)
    assert reasons(found) == [RejectReason.CLOCK_PAST]
    assert found.batch.ts_us.tolist() == [y2000]


def test_an_equal_value_is_a_duplicate_and_another_one_a_conflict() -> None:
    gateway = Gateway()
    gateway.send((0, 1.0), at_s=0)
    again = gateway.send((0, 1.0), at_s=1)
    assert (len(again.batch), again.n_duplicates, again.rejects) == (0, 1, [])
    other = gateway.send((0, 2.0), at_s=2)
    assert (len(other.batch), other.n_duplicates, reasons(other)) == (0, 0, [RejectReason.CONFLICT])
    assert gateway.send((0, 1.0), at_s=3).n_duplicates == 1


def test_missing_values_at_one_time_are_duplicates() -> None:
    gateway = Gateway()
    gateway.send((0, math.nan), at_s=0)
    assert gateway.send((0, math.nan), at_s=1).n_duplicates == 1


def test_what_is_not_newer_is_late() -> None:
    gateway = Gateway()
    assert arrived(gateway.send((-20, 1.0), (0, 1.0), at_s=0)) == [0, 0]
    assert arrived(gateway.send((-10, 1.0), (5, 2.0), at_s=5)) == [LATE, 0]
    assert gateway.newest_s == 5


def test_a_declared_backfill_is_late_and_moves_nothing() -> None:
    gateway = Gateway()
    gateway.send((0, 1.0), at_s=0)
    assert arrived(gateway.send((10, 1.0), at_s=10, quality=BACKFILL)) == [BACKFILL | LATE]
    assert gateway.newest_s == 0


def test_readings_of_one_message_are_put_in_order_before_they_are_judged() -> None:
    gateway = Gateway()
    found = gateway.send((0, 3.0), (-20, 1.0), (-10, 2.0), at_s=0)
    assert (found.batch.value.tolist(), arrived(found)) == ([1.0, 2.0, 3.0], [0, 0, 0])


def test_a_clock_that_was_ahead_and_is_set_right_restarts_its_channel() -> None:
    gateway = Gateway()
    gateway.send((240, 1.0), at_s=0)  # four minutes ahead
    assert arrived(gateway.send((10, 1.0), at_s=10)) == [LATE | RESTARTED]
    assert arrived(gateway.send((20, 1.0), at_s=20)) == [LATE | RESTARTED]
    third = gateway.send((30, 1.0), at_s=30)
    assert (third.n_restarted, third.in_doubt, gateway.newest_s) == (1, True, 30)
    again = gateway.send((40, 1.0), at_s=40)
    assert (arrived(again), again.in_doubt, gateway.newest_s) == ([RESTARTED], False, 40)
    assert arrived(gateway.send((250, 1.0), at_s=250)) == [0]


def test_a_run_that_does_not_rise_or_is_broken_restarts_nothing() -> None:
    gateway = Gateway()
    gateway.send((240, 1.0), at_s=0)
    for second in (12, 11, 10):
        assert gateway.send((second, 1.0), at_s=12).n_restarted == 0
    assert gateway.send((13, 1.0), at_s=13).n_restarted == 0
    assert arrived(gateway.send((241, 1.0), at_s=14)) == [0]  # the clock is ahead after all
    assert gateway.send((15, 1.0), at_s=15).n_restarted == 0
    assert gateway.newest_s == 241


def test_what_a_broker_hands_over_twice_restarts_nothing() -> None:
    gateway = Gateway()
    rows = [(float(second), 1.0) for second in range(30)]
    gateway.send(*rows, at_s=30)
    again = gateway.send(*rows, at_s=31)
    assert (again.n_restarted, again.in_doubt, gateway.newest_s) == (0, False, 29)
    assert set(arrived(again)) == {LATE}


def test_a_waveform_is_converted_and_judged_by_its_end() -> None:
    found = waveform(normalizer(), 0, [1.0, 2.0, 3.0], rate_hz=100.0, unit="mm/m")
    (block,) = found.blocks
    assert (block.channel_ix, block.t0_us, block.samples.dtype) == (3, T0_US, np.float32)
    assert block.samples.tolist() == pytest.approx([1000.0, 2000.0, 3000.0])
    assert block.as_readings().ts_us.tolist() == [T0_US, T0_US + 10_000, T0_US + 20_000]


def test_a_waveform_that_comes_twice_or_overlaps_is_late() -> None:
    taker = normalizer()
    assert waveform(taker, 0, [1.0, 2.0, 3.0]).blocks[0].quality == 0
    assert waveform(taker, 0, [1.0, 2.0, 3.0]).blocks[0].quality == LATE
    assert waveform(taker, 1, [1.0, 2.0, 3.0]).blocks[0].quality == LATE
    assert waveform(taker, 3, [1.0, 2.0, 3.0]).blocks[0].quality == 0


def test_a_waveform_in_the_future_or_of_a_stranger_is_refused() -> None:
    assert reasons(waveform(normalizer(), 400, [1.0])) == [RejectReason.CLOCK_FUTURE]
    assert reasons(waveform(normalizer(), 0, [1.0], name="noise")) == [RejectReason.UNKNOWN_CHANNEL]


def test_a_sample_beyond_single_precision_is_refused() -> None:
    found = waveform(normalizer(), 0, [1.0, 1e300])
    assert (found.blocks, reasons(found), found.rejects[0].n_readings) == ([], [RejectReason.NOT_FINITE], 2)


def waveform(
    taker: Normalizer, t0_s: int, samples: list[float], rate_hz: float = 1.0, unit: str = "µε", name: str = "strain"
) -> Normalized:
    decoded = message([])
    decoded = replace(decoded, names=[name], units=[unit])
    decoded.blocks.append((0, T0_US + t0_s * SECOND, rate_hz, np.array(samples), 0))
    return taker.normalize(decoded, "GW", "B1", T0_US + 10 * SECOND)


def test_what_lies_outside_the_plausible_range_is_flagged_and_kept() -> None:
    found = taken(("heat", -4, -41.0), ("heat", -3, -40.0), ("heat", -2, 90.0), ("heat", -1, 91.0))
    assert found.batch.quality.tolist() == [Quality.BAD, Quality.GOOD, Quality.GOOD, Quality.OVER_RANGE]
    assert found.batch.value.tolist() == [-41.0, -40.0, 90.0, 91.0]


@pytest.mark.parametrize("said", [q for q in Quality if q not in (Quality.GOOD, Quality.SUSPECT, Quality.MANUAL)])
def test_a_bad_flag_of_the_gateway_stays(said: Quality) -> None:
    decoded = message([("heat", T0_US, 500.0)], quality=said)
    assert normalizer().normalize(decoded, "GW", "A1", T0_US).batch.quality.tolist() == [said]


def test_no_number_is_no_measurement() -> None:
    assert taken(("gas", 0, math.nan)).batch.quality.tolist() == [Quality.MISSING]


def test_the_lag_is_the_gateway_s_own() -> None:
    decoded = message([("gas", T0_US, 1.0)], sent_us=T0_US + 1_500_000)
    assert normalizer().normalize(decoded, "GW", "A1", T0_US).gateway_lag_ms.tolist() == [1500]
    assert taken(("gas", 0, 1.0)).gateway_lag_ms.tolist() == [GATEWAY_LAG_UNKNOWN]
    far = message([("gas", T0_US, 1.0)], sent_us=4 * 10**18)
    assert normalizer().normalize(far, "GW", "A1", T0_US).gateway_lag_ms.tolist() == [2**31 - 1]


def test_one_message_makes_a_bounded_number_of_rejects_that_counts_every_reading() -> None:
    found = taken(*((f"stranger{n}", 0, 1.0) for n in range(500)))
    assert len(found.rejects) == MOST_REJECTS + 1
    assert sum(reject.n_readings for reject in found.rejects) == 500
    future = taken(*(("gas", 400 + n, 1.0) for n in range(500)))
    assert [(reject.reason, reject.n_readings) for reject in future.rejects] == [(RejectReason.CLOCK_FUTURE, 500)]


def test_a_refused_message_passes_its_reason_on() -> None:
    decoded = Decoded.refused(RejectReason.MALFORMED, "not JSON")
    found = normalizer().normalize(decoded, "GW", "A1", T0_US)
    assert (len(found.batch), found.rejects) == (0, decoded.rejects)


def test_a_channel_whose_sensor_type_no_pack_declares_is_taken_as_it_is() -> None:
    city = replace(CITY, channels=(replace(CITY.channels[0], sensor="y.other", domain="y"),))
    found = normalizer(city).normalize(message([("y.other", T0_US, 1e9)]), "GW", "A1", T0_US)
    assert (found.batch.value.tolist(), found.batch.quality.tolist()) == ([1e9], [Quality.GOOD])


def test_a_state_is_taken_up_by_a_city_that_has_grown() -> None:
    old, new = normalizer(replace(CITY, channels=CITY.channels[:2])), normalizer()
    old.normalize(message([("gas", T0_US, 1.0)]), "GW", "A1", T0_US)
    new.restore(old.save())
    assert new.newest_us().tolist() == [T0_US, -1, -1, -1, -1]
