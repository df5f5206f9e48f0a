"""Utility tunnels 综合管廊: the air, the cables and the sumps of fire segments."""

from __future__ import annotations

from lifeline_stream.core.model import Float64s
from lifeline_stream.fleet.signals import SWITCH, Hazard, Moment, Signal, demand

PUMP_EVERY_S = 5400.0


def pumped_m(m: Moment) -> Float64s:
    """float64[n] in [0, 0.35): the sump fills and is pumped out."""
    return 0.35 * ((m.seconds / PUMP_EVERY_S + 0.5 * m.site) % 1.0)


SIGNALS: dict[str, Signal] = {
    "tunnel.methane": Signal("%VOL", 0.01, 0.1, lambda m: 0.02 + 0.02 * m.trait + 0.01 * m.noise, low=0.0, high=100.0),
    "tunnel.h2s": Signal("mg/m³", 0.1, 1.0, lambda m: 1.0 + 0.5 * m.trait + 0.2 * m.noise, low=0.0),
    "tunnel.co": Signal("mg/m³", 0.1, 2.0, lambda m: 2.0 + m.trait + 0.4 * m.noise, low=0.0),
    "tunnel.oxygen": Signal("%VOL", 0.1, 0.2, lambda m: 20.8 + 0.1 * m.trait + 0.02 * m.noise, low=0.0),
    "tunnel.temperature": Signal("°C", 0.1, 1.0, lambda m: 18.5 + 0.25 * m.air_c + 1.5 * m.site + 0.08 * m.noise),
    "tunnel.line_temperature": Signal(
        "°C", 0.1, 2.0, lambda m: 26.0 + 0.25 * m.air_c + 2.0 * m.site + 4.0 * demand(m) + 0.2 * m.noise
    ),
    "tunnel.humidity": Signal("%RH", 0.1, 3.0, lambda m: 68.0 + 5.0 * m.site + 1.5 * m.slow, low=0.0, high=100.0),
    "tunnel.sump_level": Signal(
        "m", 0.01, 0.05, lambda m: 0.15 + pumped_m(m) + 0.004 * m.wet_mm_per_h, low=0.0, high=5.0
    ),
    "tunnel.sump_float_high": SWITCH,
    "tunnel.sump_float_high_high": SWITCH,
    "tunnel.smoke": SWITCH,
}

HAZARDS: dict[str, Hazard] = {
    "tunnel_gas": Hazard(
        "管廊燃气泄漏",
        {"tunnel.methane": 1.8, "tunnel.oxygen": -0.4},
        nearby={"tunnel.methane": 0.5},
        rises_s=15.0,
        lasts_s=300.0,
    ),
    "tunnel_flood": Hazard(
        "管廊进水",
        {
            "tunnel.sump_level": 1.2,
            "tunnel.sump_float_high": 1.0,
            "tunnel.sump_float_high_high": 1.0,
            "tunnel.humidity": 12.0,
        },
        rises_s=30.0,
        lasts_s=360.0,
    ),
    "tunnel_fire": Hazard(
        "电缆起火",
        {
            "tunnel.line_temperature": 62.0,
            "tunnel.smoke": 1.0,
            "tunnel.co": 130.0,
            "tunnel.temperature": 30.0,
            "tunnel.oxygen": -1.0,
        },
        nearby={"tunnel.line_temperature": 12.0, "tunnel.co": 10.0},
        rises_s=15.0,
        lasts_s=300.0,
    ),
}
