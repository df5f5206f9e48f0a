"""Gas 燃气: medium-pressure mains, regulator stations, and the chambers beside them."""

from __future__ import annotations

from lifeline_stream.fleet.signals import CELL, RADIO, SWITCH, Hazard, Signal, demand

SIGNALS: dict[str, Signal] = {
    "gas.methane": Signal("%VOL", 0.01, 0.1, lambda m: 0.03 + 0.03 * m.trait + 0.01 * m.noise, low=0.0, high=100.0),
    "gas.ethane": Signal("ppm", 1.0, 5.0, lambda m: 2.0 * m.noise, low=0.0, high=1e5),
    "gas.immersion": SWITCH,
    "gas.water_level": Signal(
        "mm", 1.0, 20.0, lambda m: 60.0 + 40.0 * m.trait + 8.0 * m.wet_mm_per_h + m.noise, low=0.0
    ),
    "gas.cover_tilt": Signal("°", 0.1, 0.5, lambda m: 1.0 + 0.5 * m.trait + 0.1 * m.noise, low=0.0, high=180.0),
    "gas.cover_moved": SWITCH,
    "gas.pressure": Signal(
        "kPa", 0.1, 4.0, lambda m: 300.0 + 30.0 * m.site - 12.0 * (demand(m) - 1.0) + m.slow + 0.3 * m.noise, low=0.0
    ),
    "gas.flow": Signal("m³/h", 1.0, 20.0, lambda m: (800.0 + 300.0 * m.site) * demand(m) + 6.0 * m.noise, low=0.0),
    "gas.temperature": Signal("°C", 0.1, 1.0, lambda m: 8.5 + 0.45 * m.air_c + 1.5 * m.site + 0.1 * m.noise),
    "gas.humidity": Signal("%RH", 0.1, 4.0, lambda m: 78.0 + 8.0 * m.trait + 2.0 * m.slow, low=0.0, high=100.0),
    "gas.battery_voltage": CELL,
    "gas.signal_strength": RADIO,
}

HAZARDS: dict[str, Hazard] = {
    "leak": Hazard(
        "燃气泄漏",
        {"gas.methane": 6.0, "gas.ethane": 3000.0, "gas.pressure": -40.0, "gas.flow": 300.0},
        nearby={
            "gas.methane": 3.0,
            "gas.ethane": 1500.0,
            "drainage.methane": 2.0,
            "tunnel.methane": 1.2,
            "gas.pressure": -25.0,
        },
        rises_s=12.0,
        lasts_s=300.0,
    ),
    "cover_removed": Hazard("井盖移位", {"gas.cover_tilt": 60.0, "gas.cover_moved": 1.0}, rises_s=3.0, lasts_s=300.0),
}
