"""Conversions: back is the reverse of there, values and intervals are kept apart, gases cross quantities."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline_stream.core.units import UNITS, conversion, parse_unit

METHANE_G_PER_MOL, METHANE_LEL = 16.043, 5.0
BY_QUANTITY = {
    quantity: [name for name, unit in UNITS.items() if unit.quantity == quantity]
    for quantity in dict.fromkeys(unit.quantity for unit in UNITS.values())
}
PAIRS = [pair for names in BY_QUANTITY.values() for pair in product(names, names)]
pairs = st.sampled_from(PAIRS)
numbers = st.floats(-1e6, 1e6)


@given(pairs, numbers)
def test_back_is_the_reverse_of_there(pair: tuple[str, str], x: float) -> None:
    there = conversion(*pair, lel_percent_vol=METHANE_LEL)
    back = conversion(*reversed(pair), lel_percent_vol=METHANE_LEL)
    lost_in_the_offset = abs(there.offset) * 1e-12 / abs(there.scale)
    assert back.value(there.value(x)) == pytest.approx(x, rel=1e-9, abs=lost_in_the_offset + 1e-12)
    assert back.interval(there.interval(x)) == pytest.approx(x, rel=1e-9)


@given(pairs, numbers, numbers)
def test_the_interval_between_two_values_is_the_difference_of_their_conversions(
    pair: tuple[str, str], x: float, y: float
) -> None:
    there = conversion(*pair, lel_percent_vol=METHANE_LEL)
    difference = there.value(x) - there.value(y)
    size = max(abs(there.value(x)), abs(there.value(y)), 1e-12)
    assert there.interval(x - y) == pytest.approx(difference, rel=1e-9, abs=size * 1e-9)


@given(st.floats(0, 1e6), st.floats(-40, 60), st.floats(2, 300))
def test_mass_and_volume_of_a_gas_at_its_temperature(ppm: float, celsius: float, g_per_mol: float) -> None:
    litres_per_mol = 22.414 * (celsius + 273.15) / 273.15  # molar volume of an ideal gas at 101.325 kPa
    there = conversion("ppm", "mg/m³", molar_mass_g_per_mol=g_per_mol, temperature_c=celsius)
    assert there.value(ppm) == pytest.approx(ppm * g_per_mol / litres_per_mol, rel=1e-4)
    back = conversion("mg/m³", "ppm", molar_mass_g_per_mol=g_per_mol, temperature_c=celsius)
    assert back.value(there.value(ppm)) == pytest.approx(ppm, rel=1e-9)


@given(st.floats(0, 200), st.floats(0.5, 80))
def test_the_explosive_limit_is_the_gas_s_own(percent_lel: float, lel_percent_vol: float) -> None:
    there = conversion("%LEL", "%VOL", lel_percent_vol=lel_percent_vol)
    assert there.value(percent_lel) == pytest.approx(percent_lel / 100 * lel_percent_vol, rel=1e-12)
    in_ppm = conversion("%LEL", "ppm", lel_percent_vol=lel_percent_vol)
    assert in_ppm.value(percent_lel) == pytest.approx(percent_lel * lel_percent_vol * 100, rel=1e-12)


@given(st.sampled_from(sorted(UNITS)))
def test_every_unit_is_known_by_its_own_spelling_with_spaces_around(name: str) -> None:
    assert parse_unit(f" {name} ") == name
    assert math.isfinite(UNITS[name].scale)
    assert UNITS[name].scale > 0
