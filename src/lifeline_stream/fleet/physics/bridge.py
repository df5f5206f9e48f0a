"""Bridges 桥梁: what decks, piers, bearings and cables do under traffic, temperature and wind."""

from __future__ import annotations

import numpy as np

from lifeline_stream.core.model import Float64s
from lifeline_stream.fleet.signals import Hazard, Moment, Signal, traffic

VEHICLE_EVERY_S = 11.0
FIRST_MODE_HZ = 3.0


def vehicle(m: Moment) -> Float64s:
    """float64[n] in [0, 1]: a vehicle is over the gauge, heavier the denser the traffic."""
    since_s = (m.seconds + 5.0 * m.trait) % VEHICLE_EVERY_S - VEHICLE_EVERY_S / 2
    return traffic(m) * np.exp(-0.5 * (since_s / 0.6) ** 2)


def sway(m: Moment) -> Float64s:
    """float64[n] in [-1, 1]: the deck moves in its first mode, more the denser the traffic."""
    return (0.2 + 0.8 * traffic(m)) * np.sin(2 * np.pi * FIRST_MODE_HZ * m.seconds)


def warm_c(m: Moment) -> Float64s:
    """float64[n]: the air less the year's mean, °C."""
    return m.air_c - 15.5


SIGNALS: dict[str, Signal] = {
    "bridge.strain": Signal(
        "µε", 0.01, 3.0, lambda m: 10.0 * m.trait + 0.8 * warm_c(m) + 8.0 * vehicle(m) + sway(m) + 0.3 * m.noise
    ),
    "bridge.strain_static": Signal(
        "µε", 0.1, 3.0, lambda m: 80.0 * m.trait + 1.2 * warm_c(m) + 3.0 * traffic(m) + 0.5 * m.slow + 0.4 * m.noise
    ),
    "bridge.displacement": Signal(
        "mm", 0.01, 2.0, lambda m: 2.0 * m.trait - 3.0 * traffic(m) - 0.3 * warm_c(m) + 0.2 * m.noise
    ),
    "bridge.displacement_dynamic": Signal("mm", 0.01, 1.0, lambda m: 0.6 * sway(m) - 1.5 * vehicle(m) + 0.05 * m.noise),
    "bridge.bearing_displacement": Signal("mm", 0.01, 2.0, lambda m: 3.0 * m.trait + warm_c(m) + 0.1 * m.noise),
    "bridge.joint_displacement": Signal("mm", 0.1, 3.0, lambda m: 4.0 * m.trait + 1.5 * warm_c(m) + 0.1 * m.noise),
    "bridge.tilt": Signal("°", 0.001, 0.01, lambda m: 0.01 * m.trait + 0.004 * traffic(m) + 0.0015 * m.noise),
    "bridge.settlement": Signal("mm", 0.1, 0.5, lambda m: 0.8 * m.trait + 0.1 * m.slow),
    "bridge.crack_width": Signal("mm", 0.001, 0.02, lambda m: 0.12 + 0.04 * m.trait - 0.0006 * warm_c(m), low=0.0),
    "bridge.bearing_reaction": Signal(
        "kN", 1.0, 25.0, lambda m: 2000.0 + 200.0 * m.trait + 30.0 * traffic(m) + 3.0 * m.slow + 3.0 * m.noise
    ),
    "bridge.cable_force": Signal(
        "kN", 1.0, 40.0, lambda m: 3000.0 + 300.0 * m.trait - 4.0 * warm_c(m) + 4.0 * m.slow + 3.0 * m.noise
    ),
    "bridge.acceleration": Signal("m/s²", 0.001, 0.05, lambda m: 0.08 * sway(m) + 0.01 * m.noise),
    "bridge.modal_frequency": Signal(
        "Hz", 0.001, 0.02, lambda m: FIRST_MODE_HZ + 0.05 * m.trait - 0.004 * warm_c(m) + 0.003 * m.noise
    ),
    "bridge.vehicle_weight": Signal("t", 0.1, 4.0, lambda m: 12.0 + 9.0 * np.abs(m.noise), low=0.0),
    "bridge.wind_speed": Signal(
        "m/s", 0.1, 2.0, lambda m: 3.0 + 1.2 * m.slow + 0.4 * m.noise + 0.2 * m.rain_mm_per_h, low=0.0
    ),
    "bridge.wind_direction": Signal("°", 1.0, 20.0, lambda m: (150.0 + 30.0 * m.slow + 5.0 * m.noise) % 360.0),
    "bridge.temperature": Signal("°C", 0.1, 1.0, lambda m: m.air_c + m.trait + 0.1 * m.noise),
    "bridge.air_temperature": Signal("°C", 0.1, 1.0, lambda m: m.air_c + 0.5 * m.site + 0.1 * m.noise),
    "bridge.humidity": Signal(
        "%RH", 0.1, 5.0, lambda m: 65.0 + 5.0 * m.slow + 1.5 * m.rain_mm_per_h, low=0.0, high=100.0
    ),
}

HAZARDS: dict[str, Hazard] = {
    "settlement": Hazard(
        "支座沉降",
        {
            "bridge.tilt": 0.3,
            "bridge.settlement": 8.0,
            "bridge.bearing_reaction": -350.0,
            "bridge.strain": 30.0,
            "bridge.strain_static": 30.0,
            "bridge.displacement": -55.0,
        },
        nearby={"bridge.strain": 30.0, "bridge.strain_static": 30.0, "bridge.displacement": -55.0},
        rises_s=15.0,
        lasts_s=300.0,
    ),
    "overload": Hazard(
        "超载车辆",
        {"bridge.vehicle_weight": 80.0, "bridge.displacement": -12.0, "bridge.displacement_dynamic": -8.0},
        rises_s=3.0,
        lasts_s=45.0,
    ),
    "collision": Hazard(
        "船舶撞击", {"bridge.acceleration": 3.0}, nearby={"bridge.tilt": 0.15}, rises_s=0.5, lasts_s=90.0
    ),
}
