"""Drainage 排水: sewers and storm drains, pumping stations, and the low points of the streets."""

from __future__ import annotations

from lifeline_stream.fleet.signals import MAINS_BATTERY, RADIO, SWITCH, Hazard, Signal, demand

MM_PER_REPORT = 300.0 / 3600.0
"""Rainfall is the sum of a report's interval: give its channels 300 s."""

SIGNALS: dict[str, Signal] = {
    "drainage.level": Signal(
        "m",
        0.001,
        0.08,
        lambda m: 0.45 + 0.2 * m.trait + 0.15 * demand(m) + 0.03 * m.wet_mm_per_h + 0.01 * m.slow + 0.003 * m.noise,
        low=0.0,
        high=10.0,
    ),
    "drainage.velocity": Signal(
        "m/s", 0.01, 0.1, lambda m: 0.55 + 0.15 * m.trait + 0.1 * demand(m) + 0.03 * m.wet_mm_per_h + 0.02 * m.noise
    ),
    "drainage.flow": Signal(
        "m³/s", 0.001, 0.05, lambda m: (0.2 + 0.08 * m.site) * demand(m) + 0.04 * m.wet_mm_per_h + 0.004 * m.noise
    ),
    "drainage.rainfall": Signal(
        "mm", 0.1, 0.5, lambda m: m.rain_mm_per_h * MM_PER_REPORT * (1.0 + 0.2 * m.site), low=0.0
    ),
    "drainage.rain_intensity": Signal("mm/h", 0.1, 4.0, lambda m: m.rain_mm_per_h * (1.0 + 0.2 * m.site), low=0.0),
    "drainage.ponding": Signal("cm", 0.1, 1.0, lambda m: 0.5 * (m.wet_mm_per_h - 6.0), low=0.0, high=150.0),
    "drainage.immersion": SWITCH,
    "drainage.h2s": Signal("mg/m³", 0.1, 1.0, lambda m: 2.0 + m.trait + 0.3 * m.slow + 0.2 * m.noise, low=0.0),
    "drainage.methane": Signal(
        "%VOL", 0.01, 0.1, lambda m: 0.15 + 0.1 * m.trait + 0.02 * m.slow + 0.01 * m.noise, low=0.0, high=100.0
    ),
    "drainage.co": Signal("mg/m³", 0.1, 2.0, lambda m: 2.0 + m.trait + 0.4 * m.noise, low=0.0),
    "drainage.oxygen": Signal(
        "%VOL", 0.01, 0.2, lambda m: 20.7 + 0.1 * m.trait + 0.03 * m.slow + 0.03 * m.noise, low=0.0
    ),
    "drainage.cod": Signal(
        "mg/L", 1.0, 40.0, lambda m: 260.0 + 60.0 * m.trait + 40.0 * demand(m) + 25.0 * m.slow + 5.0 * m.noise
    ),
    "drainage.ammonia": Signal(
        "mg/L", 0.1, 4.0, lambda m: 30.0 + 5.0 * m.trait + 5.0 * demand(m) + 2.0 * m.slow + 0.5 * m.noise
    ),
    "drainage.suspended_solids": Signal(
        "mg/L", 1.0, 20.0, lambda m: 180.0 + 30.0 * m.trait + 12.0 * m.slow + 4.0 * m.noise
    ),
    "drainage.ph": Signal("pH", 0.01, 0.2, lambda m: 7.3 + 0.15 * m.trait + 0.05 * m.slow + 0.01 * m.noise),
    "drainage.conductivity": Signal(
        "µS/cm", 1.0, 60.0, lambda m: 900.0 + 120.0 * m.trait + 30.0 * m.slow + 4.0 * m.noise
    ),
    "drainage.water_temperature": Signal(
        "°C", 0.1, 1.0, lambda m: 12.5 + 0.3 * m.air_c + 0.5 * m.trait + 0.05 * m.noise
    ),
    "drainage.battery_voltage": MAINS_BATTERY,
    "drainage.signal_strength": RADIO,
}

HAZARDS: dict[str, Hazard] = {
    "flood": Hazard(
        "内涝",
        {
            "drainage.level": 2.9,
            "drainage.ponding": 34.0,
            "drainage.rain_intensity": 95.0,
            "drainage.rainfall": 8.0,
            "drainage.flow": 0.6,
            "drainage.velocity": 0.8,
        },
        nearby={"drainage.level": 0.6, "drainage.ponding": 6.0, "gas.water_level": 300.0},
        rises_s=20.0,
        lasts_s=420.0,
    ),
    "sewer_gas": Hazard(
        "有毒气体积聚",
        {"drainage.h2s": 38.0, "drainage.methane": 1.6, "drainage.co": 12.0, "drainage.oxygen": -2.0},
        nearby={"drainage.h2s": 4.0},
        rises_s=20.0,
        lasts_s=300.0,
    ),
}
