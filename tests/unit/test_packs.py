"""Facts about the shipped packs that their schema can't hold."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.detection import Detection
from lifeline_stream.core.model import AlarmClass, ConditionEvent, Decoded, EventKind, Quality, ReadingBatch, Severity
from lifeline_stream.core.packs import ANY_SENSOR, Absence, Detector, Flat, Ladder, Pack, Rate, Sensor, Threshold
from lifeline_stream.core.plan import compile_plan
from lifeline_stream.declarations import load_packs, run_cases
from lifeline_stream.resources import find

FOLDER = find("detectors")
PACKS = {pack.domain.id: pack for pack in load_packs(FOLDER)}
NOW_US = 1_764_000_000_000_000

METRICS = {
    "gas": {
        "methane": "%VOL",
        "temperature": "°C",
        "humidity": "%RH",
        "cover_tilt": "°",
        "cover_moved": "1",
        "water_level": "mm",
        "immersion": "1",
        "pressure": "kPa",
        "flow": "m³/h",
        "battery_voltage": "V",
        "signal_strength": "dBm",
    },
    "drainage": {
        "level": "m",
        "velocity": "m/s",
        "flow": "m³/s",
        "rainfall": "mm",
        "rain_intensity": "mm/h",
        "ponding": "cm",
        "h2s": "mg/m³",
        "methane": "%VOL",
        "co": "mg/m³",
        "oxygen": "%VOL",
        "cod": "mg/L",
        "ammonia": "mg/L",
        "suspended_solids": "mg/L",
        "ph": "pH",
        "conductivity": "µS/cm",
        "water_temperature": "°C",
    },
    "bridge": {
        "displacement": "mm",
        "displacement_dynamic": "mm",
        "bearing_displacement": "mm",
        "strain": "µε",
        "strain_static": "µε",
        "bearing_reaction": "kN",
        "acceleration": "m/s²",
        "settlement": "mm",
        "crack_width": "mm",
        "joint_displacement": "mm",
        "modal_frequency": "Hz",
        "tilt": "°",
        "cable_force": "kN",
        "temperature": "°C",
        "wind_speed": "m/s",
        "vehicle_weight": "t",
    },
    "heating": {
        "primary_supply_temperature": "°C",
        "primary_return_temperature": "°C",
        "secondary_supply_temperature": "°C",
        "secondary_return_temperature": "°C",
        "primary_supply_pressure": "MPa",
        "primary_return_pressure": "MPa",
        "secondary_supply_pressure": "MPa",
        "secondary_return_pressure": "MPa",
        "flow": "m³/h",
        "heat": "GJ",
        "makeup_flow": "t/h",
        "leak_wire_resistance": "Ω",
        "soil_temperature": "°C",
    },
    "water": {
        "pressure": "MPa",
        "pressure_transient": "MPa",
        "flow": "m³/h",
        "tank_level": "m",
        "leak_noise": "dB",
        "leak_noise_frequency": "Hz",
        "turbidity": "NTU",
        "chlorine": "mg/L",
        "ph": "pH",
        "ammonia": "mg/L",
    },
    "tunnel": {
        "methane": "%VOL",
        "h2s": "mg/m³",
        "co": "mg/m³",
        "oxygen": "%VOL",
        "temperature": "°C",
        "line_temperature": "°C",
        "humidity": "%RH",
        "sump_level": "m",
        "smoke": "1",
    },
}
"""What the six domains measure, and the unit it is stored in."""

HIGH_RATE_HZ = {
    ("bridge", "strain"): 100,
    ("bridge", "acceleration"): 100,
    ("bridge", "displacement_dynamic"): 20,
    ("water", "pressure_transient"): 100,
}

SENSORS = [
    pytest.param(pack, sensor, id=f"{pack.domain.id}.{sensor.id}") for pack in PACKS.values() for sensor in pack.sensor
]
DETECTORS = [pytest.param(pack, detector, id=detector.id) for pack in PACKS.values() for detector in pack.detector]


def test_there_are_six_domains() -> None:
    assert set(PACKS) == set(METRICS)


@pytest.mark.parametrize("domain", METRICS)
def test_every_metric_of_a_domain_has_a_sensor_type_with_its_unit(domain: str) -> None:
    units = {sensor.id: sensor.unit for sensor in PACKS[domain].sensor}
    assert METRICS[domain].items() <= units.items()


def test_only_waveforms_are_high_rate() -> None:
    rates = {
        (pack.domain.id, sensor.id): round(1 / sensor.every_s)
        for pack in PACKS.values()
        for sensor in pack.sensor
        if sensor.high_rate
    }
    assert rates == HIGH_RATE_HZ


@pytest.mark.parametrize(("pack", "sensor"), SENSORS)
def test_a_gateway_may_use_the_english_or_the_chinese_name(pack: Pack, sensor: Sensor) -> None:
    assert sensor.name in sensor.aliases
    assert re.search(r"[\u4e00-\u9fff]", sensor.name)
    assert any(alias.isascii() for alias in sensor.aliases), f"{pack.domain.id}.{sensor.id} has no English alias"


@pytest.mark.parametrize("domain", METRICS)
def test_the_inline_cases_hold(domain: str) -> None:
    assert run_cases(FOLDER, [PACKS[domain]]) == []


@pytest.mark.parametrize(("pack", "detector"), DETECTORS)
def test_every_detector_has_a_case_that_raises_and_every_hazard_one_that_does_not(
    pack: Pack, detector: Detector
) -> None:
    cases = [case for case in pack.case if case.detector == detector.id]
    assert any(case.expect for case in cases)
    if detector.class_ is AlarmClass.HAZARD:
        assert any(not case.expect for case in cases)


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_every_channel_of_every_domain_is_missed_when_it_falls_silent(pack: Pack) -> None:
    missed = [d for d in pack.detector if isinstance(d, Absence) and ANY_SENSOR in d.sensors()]
    assert [d.class_ for d in missed] == [AlarmClass.DEVICE]


@pytest.mark.parametrize(("pack", "detector"), DETECTORS)
def test_what_only_says_that_a_device_is_unwell_goes_to_maintenance(pack: Pack, detector: Detector) -> None:
    devices = {"battery_voltage", "signal_strength", "immersion"}
    about_devices = isinstance(detector, Flat | Absence) or devices.issuperset(detector.sensors())
    if about_devices:
        assert detector.class_ is AlarmClass.DEVICE, pack.domain.id


@pytest.mark.parametrize(("pack", "detector"), DETECTORS)
def test_every_limit_lies_where_readings_are_believed(pack: Pack, detector: Detector) -> None:
    if not isinstance(detector, Threshold):
        return
    for sensor in pack.sensors_of(detector):
        low, high = sensor.plausible
        assert all(limit >= low for limit in detector.below.given())
        assert all(limit <= high for limit in detector.above.given())


@pytest.mark.parametrize(("pack", "detector"), DETECTORS)
def test_every_rate_of_change_sees_a_reading_in_each_mean(pack: Pack, detector: Detector) -> None:
    if isinstance(detector, Rate):
        assert all(sensor.every_s <= detector.mean_s for sensor in pack.sensors_of(detector))


@pytest.mark.parametrize(("pack", "detector"), DETECTORS)
def test_every_ladder_has_a_dead_band(pack: Pack, detector: Detector) -> None:
    if isinstance(detector, Ladder):
        for high in detector.above.given()[:1]:
            assert detector.clear_below is not None, pack.domain.id
            assert detector.clear_below < high
        for low in detector.below.given()[:1]:
            assert detector.clear_above is not None, pack.domain.id
            assert detector.clear_above > low


def test_a_gas_beyond_the_range_of_its_sensor_still_alarms() -> None:
    gases = [s for pack in PACKS.values() for s in pack.sensor if s.substance.molar_mass_g_per_mol is not None]
    assert {s.id for s in gases} == {"methane", "ethane", "h2s", "co", "oxygen"}
    assert {s.over_range for s in gases} == {"alarm"}


def test_held_readings_are_legitimate_where_they_are_normal() -> None:
    legitimate = {(pack.domain.id, s.id) for pack in PACKS.values() for s in pack.sensor if s.flat_line == "legitimate"}
    held = {"primary_supply_temperature", "primary_return_temperature", "secondary_supply_temperature"}
    assert {("heating", name) for name in held} <= legitimate
    assert {("gas", "methane"), ("drainage", "methane"), ("tunnel", "methane"), ("drainage", "rainfall")} <= legitimate


def normalized(domain: str, metric: str, unit: str, value: float) -> tuple[Detection, ReadingBatch]:
    """One reading as a gateway sends it, by the metric's name and unit; the sensor type is found by its alias."""
    sensor = next(s for s in PACKS[domain].sensor if metric in (s.id, *s.aliases))
    catalog = Catalog.of_channels([("device", f"{domain}.{sensor.id}", 60.0)])
    detection = Detection(compile_plan(catalog, [PACKS[domain]], event_time=True), "event")
    message = Decoded(
        names=[metric],
        units=[unit],
        name_ix=np.zeros(1, np.int32),
        ts_us=np.array([NOW_US]),
        value=np.array([value]),
        quality=np.zeros(1, np.uint8),
    )
    result = detection.normalizer.normalize(message, "", "device", NOW_US)
    assert result.rejects == []
    return detection, result.batch


def raised(domain: str, metric: str, unit: str, value: float) -> list[ConditionEvent]:
    """What one such reading raises."""
    detection, batch = normalized(domain, metric, unit, value)
    return detection.step(batch, NOW_US, -1)[0]


@pytest.mark.parametrize(
    ("domain", "metric", "unit", "sent", "stored"),
    [
        ("gas", "CH4", "%LEL", 20.0, 1.0),
        ("gas", "可燃气体浓度", "ppm", 10_000.0, 1.0),
        ("gas", "压力", "MPa", 0.3, 300.0),
        ("drainage", "H2S", "ppm", 10.0, 14.168),
        ("drainage", "CO", "ppm", 10.0, 11.644),
        ("drainage", "雨量", "mm", 3.5, 3.5),
        ("drainage", "液位", "mm", 1250.0, 1.25),
        ("drainage", "积水深度", "m", 0.27, 27.0),
        ("bridge", "应变", "um/m", 12.5, 12.5),
        ("bridge", "加速度", "gal", 100.0, 1.0),
        ("heating", "一次供温", "℃", 115.0, 115.0),
        ("heating", "补水量", "t/h", 12.0, 12.0),
        ("water", "P", "mH2O", 14.276, 0.14),
        ("water", "流量", "m3/h", 88.0, 88.0),
        ("tunnel", "O2", "%VOL", 20.9, 20.9),
        ("tunnel", "甲烷", "%LEL", 25.0, 1.25),
    ],
)
def test_what_gateways_send_is_stored_in_the_canonical_unit(
    domain: str, metric: str, unit: str, sent: float, stored: float
) -> None:
    _, batch = normalized(domain, metric, unit, sent)
    assert batch.value.tolist() == pytest.approx([stored], rel=2e-4)
    assert batch.quality.tolist() == [Quality.GOOD]


@pytest.mark.parametrize("domain", ["drainage", "tunnel"])
def test_ten_ppm_of_hydrogen_sulphide_is_more_than_ten_milligrams_and_alarms(domain: str) -> None:
    (event,) = raised(domain, "H2S", "ppm", 10.0)
    assert (event.detector, event.kind) == (f"{domain}.h2s.high", EventKind.RAISED)
    assert event.value == pytest.approx(14.17, abs=0.01)


@pytest.mark.parametrize("domain", ["gas", "drainage", "tunnel"])
def test_methane_at_a_fifth_of_the_explosive_limit_is_yellow(domain: str) -> None:
    (event,) = raised(domain, "CH4", "%LEL", 20.0)
    assert (event.kind, event.severity) == (EventKind.RAISED, Severity.YELLOW)
    assert raised(domain, "CH4", "%LEL", 19.9) == []


def test_tunnel_gas_is_shut_off_at_a_quarter_of_the_explosive_limit() -> None:
    (event,) = raised("tunnel", "CH4", "%LEL", 25.0)
    assert event.severity == Severity.RED


@pytest.mark.parametrize(("percent", "severities"), [(17.0, [3]), (20.9, []), (24.0, [2])])
def test_oxygen_alarms_on_both_sides(percent: float, severities: list[int]) -> None:
    detection, batch = normalized("tunnel", "O2", "%VOL", percent)
    later = ReadingBatch(batch.channel_ix, batch.ts_us + 60_000_000, batch.value, batch.quality)
    events = [e for part in (batch, later) for e in detection.step(part, int(part.ts_us[0]), -1)[0]]
    assert [e.severity for e in events] == severities
