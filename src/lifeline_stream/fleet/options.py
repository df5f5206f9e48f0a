"""What a topology may say about its simulated city, under `[fleet]`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from lifeline_stream.core.packs import Model
from lifeline_stream.fleet.faults import FAULTS
from lifeline_stream.fleet.physics import HAZARDS

ANYWHERE = "any"


def _known(kind: str) -> str:
    if kind not in HAZARDS and kind not in FAULTS:
        raise ValueError(f"{kind!r} is neither an incident ({', '.join(HAZARDS)}) nor a fault ({', '.join(FAULTS)})")
    return kind


class Incident(Model):
    """One incident or fault, at a set time after the start."""

    kind: str
    at: Annotated[str, Field(min_length=1)] = ANYWHERE
    """An asset, a device, a channel, or `any`."""
    starts_s: NonNegativeFloat
    lasts_s: PositiveFloat | None = None
    """None: as long as its kind usually does."""
    size: float = 1.0

    @field_validator("kind")
    @classmethod
    def _kind_known(cls, kind: str) -> str:
        return _known(kind)

    @model_validator(mode="after")
    def _size_makes_sense(self) -> Self:
        if self.size == 0 or (self.size < 0 and self.kind != "clock_skew"):
            raise ValueError(f"size: {self.size} is no size of {self.kind}")
        return self


class FleetOptions(Model):
    """How the simulated city behaves and speaks."""

    seed: int = 1
    utc_offset_h: Annotated[float, Field(ge=-12, le=14)] = 8.0
    """Local time of the city, for its daily patterns."""
    tick_s: Annotated[float, Field(ge=0.05, le=60)] = 1.0
    """A gateway sends one message per tick."""
    connections: Annotated[int, Field(ge=1, le=8)] = 4
    """Connections to the broker that all gateways share."""
    readings_per_s: NonNegativeFloat = 0.0
    """Above 0: a load without incidents, every channel equally often."""
    incident: tuple[Incident, ...] = ()
    per_day: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Kind → how many happen by chance in a day, anywhere."""

    @field_validator("per_day")
    @classmethod
    def _kinds_known(cls, per_day: dict[str, float]) -> dict[str, float]:
        for kind in per_day:
            _known(kind)
        return per_day
