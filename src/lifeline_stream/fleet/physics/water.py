"""Water supply 供水: pressure zones, metering areas, tanks, and the quality of what comes out of the tap."""

from __future__ import annotations

import numpy as np

from lifeline_stream.fleet.signals import CELL, RADIO, Hazard, Signal, bump, demand

SIGNALS: dict[str, Signal] = {
    "water.pressure": Signal(
        "MPa",
        0.001,
        0.02,
        lambda m: 0.36 + 0.03 * m.site - 0.035 * (demand(m) - 1.0) + 0.002 * m.slow + 0.002 * m.noise,
        low=0.0,
    ),
    "water.pressure_transient": Signal(
        "MPa",
        0.0001,
        0.02,
        lambda m: 0.38 + 0.02 * m.site + 0.004 * np.sin(2 * np.pi * 0.7 * m.seconds) + 0.001 * m.noise,
    ),
    "water.flow": Signal("m³/h", 0.1, 8.0, lambda m: (120.0 + 50.0 * m.site) * demand(m) + 1.5 * m.noise),
    "water.tank_level": Signal(
        "m",
        0.001,
        0.2,
        lambda m: 3.2 + 0.2 * m.trait + 0.5 * bump(m.hour, 5.0, 4.0) - 0.4 * bump(m.hour, 20.0, 3.0) + 0.003 * m.noise,
    ),
    "water.leak_noise": Signal("dB", 1.0, 4.0, lambda m: 15.0 + 4.0 * m.trait + m.noise, low=0.0),
    "water.leak_noise_frequency": Signal("Hz", 1.0, 40.0, lambda m: 320.0 + 120.0 * m.trait + 10.0 * m.noise, low=0.0),
    "water.turbidity": Signal(
        "NTU", 0.001, 0.05, lambda m: 0.25 + 0.08 * m.trait + 0.02 * m.slow + 0.005 * m.noise, low=0.0
    ),
    "water.chlorine": Signal(
        "mg/L",
        0.001,
        0.05,
        lambda m: 0.5 + 0.1 * m.trait - 0.05 * (demand(m) - 1.0) + 0.02 * m.slow + 0.005 * m.noise,
        low=0.0,
    ),
    "water.ph": Signal("pH", 0.01, 0.1, lambda m: 7.4 + 0.15 * m.trait + 0.03 * m.slow + 0.01 * m.noise),
    "water.ammonia": Signal("mg/L", 0.01, 0.03, lambda m: 0.06 + 0.03 * m.trait + 0.005 * m.slow, low=0.0),
    "water.water_temperature": Signal("°C", 0.1, 0.8, lambda m: 9.5 + 0.4 * m.air_c + 0.5 * m.trait + 0.05 * m.noise),
    "water.battery_voltage": CELL,
    "water.signal_strength": RADIO,
}

HAZARDS: dict[str, Hazard] = {
    "burst": Hazard(
        "爆管",
        {"water.pressure": -0.3, "water.flow": 220.0, "water.turbidity": 2.5},
        nearby={"water.pressure": -0.12, "water.flow": 80.0, "tunnel.sump_level": 0.5},
        rises_s=8.0,
        lasts_s=360.0,
    ),
    "surge": Hazard("水锤", {"water.pressure_transient": 1.1}, rises_s=2.0, lasts_s=30.0),
    "contamination": Hazard(
        "水质污染",
        {"water.turbidity": 4.0, "water.chlorine": -0.6, "water.ammonia": 1.2, "water.ph": -0.3},
        rises_s=60.0,
        lasts_s=2400.0,
    ),
}
