"""Heating 供热: the primary network, its substations, and the secondary loops of the houses."""

from __future__ import annotations

import numpy as np

from lifeline_stream.core.model import Float64s
from lifeline_stream.fleet.signals import Hazard, Moment, Signal

GJ_PER_DAY = 500.0
METERS_SINCE_DAY = 18_000.0
"""Local days since 1970 on which the heat meters were set to 0."""


def cold_k(m: Moment) -> Float64s:
    """float64[n]: how far it is below the heating limit of 18 °C; in summer only tap water is heated."""
    return np.clip(18.0 - m.air_c, 0.0, 22.0)


SIGNALS: dict[str, Signal] = {
    "heating.primary_supply_temperature": Signal(
        "°C", 0.1, 2.0, lambda m: 62.0 + 2.0 * cold_k(m) + 2.0 * m.site + 0.3 * m.noise
    ),
    "heating.primary_return_temperature": Signal(
        "°C", 0.1, 2.0, lambda m: 38.0 + 0.8 * cold_k(m) + 2.0 * m.site + 0.2 * m.noise
    ),
    "heating.secondary_supply_temperature": Signal(
        "°C", 0.1, 1.5, lambda m: 42.0 + 0.9 * cold_k(m) + m.trait + 0.2 * m.noise
    ),
    "heating.secondary_return_temperature": Signal(
        "°C", 0.1, 1.5, lambda m: 34.0 + 0.6 * cold_k(m) + m.trait + 0.2 * m.noise
    ),
    "heating.primary_supply_pressure": Signal(
        "MPa", 0.001, 0.02, lambda m: 1.0 + 0.05 * m.site + 0.004 * m.slow + 0.002 * m.noise
    ),
    "heating.primary_return_pressure": Signal(
        "MPa", 0.001, 0.02, lambda m: 0.4 + 0.04 * m.site + 0.004 * m.slow + 0.002 * m.noise
    ),
    "heating.secondary_supply_pressure": Signal(
        "MPa", 0.001, 0.01, lambda m: 0.5 + 0.04 * m.site + 0.003 * m.slow + 0.002 * m.noise
    ),
    "heating.secondary_return_pressure": Signal(
        "MPa", 0.001, 0.01, lambda m: 0.35 + 0.04 * m.site + 0.003 * m.slow + 0.002 * m.noise
    ),
    "heating.flow": Signal(
        "m³/h", 0.1, 10.0, lambda m: 300.0 + 80.0 * m.site + 8.0 * cold_k(m) + 2.0 * m.noise, low=0.0
    ),
    "heating.heat": Signal(
        "GJ", 1.0, 50.0, lambda m: GJ_PER_DAY * (1.0 + 0.3 * m.trait) * (m.days - METERS_SINCE_DAY), low=0.0
    ),
    "heating.heat_power": Signal("GJ/h", 0.01, 0.5, lambda m: 4.0 + 1.6 * cold_k(m) + m.site + 0.05 * m.noise, low=0.0),
    "heating.makeup_flow": Signal("t/h", 0.01, 0.5, lambda m: 2.0 + m.trait + 0.2 * m.slow + 0.1 * m.noise, low=0.0),
    "heating.leak_wire_resistance": Signal(
        "Ω", 1000.0, 3e5, lambda m: 5e6 + 1e6 * m.trait + 1e5 * m.slow, low=0.0, high=1e7
    ),
    "heating.soil_temperature": Signal(
        "°C", 0.1, 0.8, lambda m: 16.0 + 0.15 * m.air_c + 2.0 * m.trait + 0.05 * m.noise
    ),
}

HAZARDS: dict[str, Hazard] = {
    "heating_leak": Hazard(
        "供热管道泄漏",
        {
            "heating.makeup_flow": 26.0,
            "heating.soil_temperature": 42.0,
            "heating.leak_wire_resistance": -5.2e6,
            "heating.primary_supply_pressure": -0.12,
            "heating.primary_return_pressure": -0.1,
        },
        nearby={"heating.makeup_flow": 12.0, "tunnel.temperature": 8.0},
        rises_s=60.0,
        lasts_s=3000.0,
    ),
    "exchanger_leak": Hazard(
        "换热器内漏",
        {
            "heating.secondary_return_pressure": 0.52,
            "heating.secondary_supply_pressure": 0.46,
            "heating.makeup_flow": -1.0,
        },
        rises_s=10.0,
        lasts_s=300.0,
    ),
    "overheating": Hazard(
        "供水超温",
        {
            "heating.primary_supply_temperature": 78.0,
            "heating.primary_return_temperature": 25.0,
            "heating.secondary_supply_temperature": 40.0,
        },
        rises_s=20.0,
        lasts_s=360.0,
    ),
}
