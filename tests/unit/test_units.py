"""Conversions that a handbook gives, and what is refused."""

from __future__ import annotations

import pytest

from lifeline_stream.core.units import (
    ForeignUnit,
    MissingConstant,
    UnitError,
    UnknownUnit,
    conversion,
    parse_unit,
)


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "expected"),
    [
        (20.0, "°C", "K", 293.15),
        (212.0, "°F", "°C", 100.0),
        (1.0, "MPa", "kPa", 1000.0),
        (10.0, "mH2O", "kPa", 98.0665),
        (1.0, "kgf/cm²", "kPa", 98.0665),
        (1.0, "m³/s", "m³/h", 3600.0),
        (24.0, "m³/d", "m³/h", 1.0),
        (10.0, "L/s", "m³/h", 36.0),
        (1.0, "GJ/h", "kW", 277.7777778),
        (1.0, "kWh", "MJ", 3.6),
        (5.0, "%VOL", "ppm", 50_000.0),
        (1.0, "g_n", "gal", 980.665),
        (36.0, "km/h", "m/s", 10.0),
        (180.0, "°", "rad", 3.141592653589793),
        (250.0, "µε", "mm/m", 0.25),
        (1.0, "mg/L", "mg/m³", 1000.0),
        (60.0, "rpm", "Hz", 1.0),
    ],
)
def test_a_value_converts_as_the_handbook_says(value: float, from_unit: str, to_unit: str, expected: float) -> None:
    assert conversion(from_unit, to_unit).value(value) == pytest.approx(expected, rel=1e-9)


def test_a_difference_of_temperature_has_no_offset() -> None:
    celsius = conversion("K", "°C")
    assert celsius.value(283.15) == pytest.approx(10.0)
    assert celsius.interval(10.0) == 10.0
    assert conversion("°F", "°C").interval(18.0) == pytest.approx(10.0)


@pytest.mark.parametrize(("celsius", "expected"), [(0.0, 15.21), (20.0, 14.17), (25.0, 13.93)])
def test_ten_ppm_of_hydrogen_sulphide_weigh_less_when_it_is_warm(celsius: float, expected: float) -> None:
    there = conversion("ppm", "mg/m³", molar_mass_g_per_mol=34.08, temperature_c=celsius)
    assert there.value(10.0) == pytest.approx(expected, abs=0.01)


def test_a_fifth_of_the_explosive_limit_is_another_share_of_each_gas() -> None:
    assert conversion("%LEL", "%VOL", lel_percent_vol=5.0).value(20.0) == pytest.approx(1.0)
    assert conversion("%LEL", "%VOL", lel_percent_vol=4.0).value(20.0) == pytest.approx(0.8)
    assert conversion("%VOL", "%LEL", lel_percent_vol=2.1).value(2.1) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        ("℃", "°C"),
        ("摄氏度", "°C"),
        ("M3/H", "m³/h"),
        ("立方米/小时", "m³/h"),
        ("μg/m3", "µg/m³"),
        ("um/m", "µε"),
        ("微应变", "µε"),
        ("% LEL", "%LEL"),
        ("lel", "%LEL"),
        ("％vol", "%VOL"),
        ("mpa", "MPa"),
        ("米水柱", "mH2O"),
        ("-", "1"),
    ],
)
def test_a_unit_is_known_as_gateways_write_it(written: str, unit: str) -> None:
    assert parse_unit(written) == unit


@pytest.mark.parametrize("written", ["mPa", "mW", "mN", "mΩ"])
def test_a_milli_where_a_mega_is_usual_is_not_guessed(written: str) -> None:
    with pytest.raises(UnknownUnit):
        parse_unit(written)


@pytest.mark.parametrize("written", ["furlong", "parsec/h", "kPa/kPa"])
def test_an_unknown_unit_is_named(written: str) -> None:
    with pytest.raises(UnknownUnit, match=written):
        parse_unit(written)


def test_another_quantity_is_foreign() -> None:
    with pytest.raises(ForeignUnit, match="'kPa' measures pressure, not temperature"):
        conversion("kPa", "°C")
    with pytest.raises(ForeignUnit):
        conversion("ppm", "m³/h", molar_mass_g_per_mol=16.0, lel_percent_vol=5.0)


def test_a_gas_without_its_constants_is_refused_with_the_remedy() -> None:
    with pytest.raises(MissingConstant, match="lel_percent_vol"):
        conversion("%LEL", "%VOL")
    with pytest.raises(MissingConstant, match="molar_mass_g_per_mol"):
        conversion("mg/m³", "ppm")
    assert issubclass(MissingConstant, UnitError)
