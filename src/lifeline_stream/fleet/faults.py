"""What goes wrong with devices rather than with the city."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: Chinese name.
        strikes: one channel, or a device with all its channels.
        lasts_s: how long one usually lasts.
        size_means: what size 1 is.
    """

    name: str
    strikes: Literal["channel", "device"]
    lasts_s: float
    size_means: str


SKEW_S = 30.37
"""No multiple of an interval: a stamp never meets another one of its channel."""

FAULTS: dict[str, Fault] = {
    "drift": Fault("漂移", "channel", 600.0, "ends one usual spread of a quiet reading away"),
    "stuck": Fault("卡滞", "channel", 900.0, "nothing"),
    "drop_out": Fault("掉线", "device", 180.0, "nothing"),
    "clock_skew": Fault("时钟偏差", "device", 300.0, f"stamps {SKEW_S} s ahead; negative is behind"),
    "duplicate": Fault("重复上报", "device", 120.0, "nothing: every reading is sent twice"),
    "late_batch": Fault("迟到补传", "device", 120.0, "nothing: readings are held back, then sent as a backfill"),
}
"""Kind → what it does."""
