"""Detector packs: one TOML file per domain, as typed models.

pydantic is the one library that `core/` allows itself beside numpy and numba: a pack is data that a person wrote, and
the model is what tells that person every problem at once.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from lifeline_stream.core.model import AlarmClass, Severity
from lifeline_stream.core.units import UNITS, Conversion, conversion, parse_unit

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
DetectorId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$")]
Text = Annotated[str, Field(min_length=1)]
SeverityName = Literal["blue", "yellow", "orange", "red"]

ANY_SENSOR = "*"

MAX_NEEDS = 8
"""Needs that the detectors of one sensor type may have together: they share one byte."""
MAX_RATE_RATIO = 4
"""How many times `mean_s` a rate of change may look back; it sizes the ring of every such detector."""


class Model(BaseModel):
    """Base of every declaration: unknown keys are errors, instances don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Domain(Model):
    """Head of a pack: the domain 领域 it describes."""

    id: Identifier
    name: Text
    """Chinese name."""
    name_en: Text


class Range(Model):
    """A side or sides of a range, in the sensor's canonical unit; both sides given means outside *either*."""

    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if self.above is None and self.below is None:
            msg = "give above, below or both"
            raise ValueError(msg)
        return self


class Substance(Model):
    """Constants of a measured gas, for %LEL, ppm and mg/m³."""

    molar_mass_g_per_mol: PositiveFloat | None = None
    lel_percent_vol: PositiveFloat | None = None
    reference_temperature_c: float = 20.0


class Sensor(Model):
    """A sensor type: what a channel of it measures and what its readings may look like."""

    id: Identifier
    name: Text
    """Chinese name."""
    quantity: Identifier
    unit: Text
    """Canonical unit; every reading is stored in it."""
    plausible: tuple[float, float]
    """Gross range. Below it a reading is bad; above it `over_range`."""
    every_s: PositiveFloat
    """Expected interval; a channel may declare its own."""
    aliases: tuple[Text, ...] = ()
    """Names that gateways use, English and Chinese."""
    flat_line: Literal["fault", "legitimate"] = "fault"
    over_range: Literal["alarm", "suspect"] = "suspect"
    """`alarm`: a reading above the plausible range still raises (gas); it never clears."""
    states: dict[Identifier, Range] = {}
    """Named conditions of this sensor that detectors of other sensors can need."""
    substance: Substance = Substance()
    high_rate: bool = False
    """Readings come as waveform blocks."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.plausible[0] >= self.plausible[1]:
            problems.append(f"plausible: the lower end {self.plausible[0]} must be below the upper {self.plausible[1]}")
        unit = UNITS.get(self.unit)
        if unit is None:
            problems.append(f"unit: {self.unit!r} is not a known unit; known: {', '.join(sorted(UNITS))}")
        elif unit.quantity != self.quantity:
            problems.append(f"unit: {self.unit!r} measures {unit.quantity}, not {self.quantity}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def conversion(self, from_unit: str, to_unit: str = "") -> Conversion:
        """How values in one unit become values in another, with the constants of what is measured.

        Args:
            from_unit: in any spelling; empty for the canonical unit.
            to_unit: the same.

        Raises:
            UnitError: one of them can't be used for this sensor type.
        """
        if not from_unit and not to_unit:
            return Conversion(1.0, 0.0)
        start, end = (parse_unit(unit) if unit else self.unit for unit in (from_unit, to_unit))
        return conversion(
            start,
            end,
            molar_mass_g_per_mol=self.substance.molar_mass_g_per_mol,
            lel_percent_vol=self.substance.lel_percent_vol,
            temperature_c=self.substance.reference_temperature_c,
        )


class Limits(Model):
    """Limits per severity, one or more, in the sensor's unit (or the statistic's)."""

    blue: float | None = None
    yellow: float | None = None
    orange: float | None = None
    red: float | None = None

    def as_list(self) -> list[float | None]:
        """The four limits by ascending severity."""
        return [self.blue, self.yellow, self.orange, self.red]

    def given(self) -> list[float]:
        """Those that are set, by ascending severity."""
        return [limit for limit in self.as_list() if limit is not None]


class Detector(Model):
    """What every kind of detector has."""

    id: DetectorId
    sensor: str | tuple[str, ...]
    """Sensor type of this pack, several, or `*` for all."""
    class_: AlarmClass = Field(AlarmClass.HAZARD, alias="class")
    status: Literal["active", "trial"] = "active"
    needs: dict[Identifier, Text] = {}
    """Companion sensor of the same device or asset → `STATE` or `not STATE`."""
    hold_s: NonNegativeFloat = 60.0
    """How long a reading waits for its companions; one past the red limit never waits."""
    why: Text
    source: Text
    action: Text

    shaping: ClassVar[tuple[str, ...]] = ()
    """Fields that give the state its meaning: when one changes, the detector starts anew."""

    @model_validator(mode="after")
    def _needs_readable(self) -> Self:
        for companion, state in self.needs.items():
            if not state.removeprefix("not ").isidentifier():
                msg = f"needs.{companion}: write a state of that sensor, or 'not' and a state; found {state!r}"
                raise ValueError(msg)
        return self

    def sensors(self) -> tuple[str, ...]:
        """The sensor types it watches, as written."""
        return (self.sensor,) if isinstance(self.sensor, str) else self.sensor


class Ladder(Detector):
    """Limits on both sides with dead-band, on-delay and off-delay 分级限值."""

    above: Limits = Limits()
    below: Limits = Limits()
    clear_below: float | None = None
    """Where an alarm of the high side clears; the distance to the lowest limit is the dead-band of every grade."""
    clear_above: float | None = None
    on_delay_s: NonNegativeFloat = 0.0
    off_delay_s: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        above, below = self.above.given(), self.below.given()
        problems = []
        if not above and not below:
            problems.append("give at least one limit under above or below")
        if any(low >= high for low, high in pairwise(above)):
            problems.append(f"above: limits must rise with severity, found {above}")
        if any(low <= high for low, high in pairwise(below)):
            problems.append(f"below: limits must fall with severity, found {below}")
        if above and below and below[0] >= above[0]:
            problems.append(f"the lowest high limit {above[0]} must be above the highest low limit {below[0]}")
        problems += _dead_band("clear_below", self.clear_below, above, 1)
        problems += _dead_band("clear_above", self.clear_above, below, -1)
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _dead_band(name: str, clear: float | None, limits: list[float], sign: int) -> list[str]:
    if clear is None:
        return []
    if not limits:
        return [f"{name}: there is no limit on that side"]
    if sign * (limits[0] - clear) < 0:
        return [f"{name}: {clear} lies beyond the first limit {limits[0]}"]
    return []


class Threshold(Ladder):
    """The reading against the ladder."""

    kind: Literal["threshold"]
    shaping: ClassVar[tuple[str, ...]] = ("kind", "sensor")


class Rate(Ladder):
    """Rate of change: the mean of the last `mean_s` less the mean of `mean_s` that ended `over_s` before."""

    kind: Literal["rate"]
    mean_s: PositiveFloat
    over_s: PositiveFloat
    shaping: ClassVar[tuple[str, ...]] = ("kind", "sensor", "mean_s", "over_s")

    @model_validator(mode="after")
    def _ring(self) -> Self:
        longest = MAX_RATE_RATIO * self.mean_s
        if not self.mean_s <= self.over_s <= longest:
            msg = f"over_s: must lie between mean_s and {MAX_RATE_RATIO} × mean_s ({self.mean_s} … {longest})"
            raise ValueError(msg)
        return self


class Flat(Detector):
    """Flat line 卡滞: no change by more than `tolerance` for `after_s`, counted only while readings come."""

    kind: Literal["flat"]
    after_s: PositiveFloat
    tolerance: NonNegativeFloat = 0.0
    severity: SeverityName
    shaping: ClassVar[tuple[str, ...]] = ("kind", "sensor", "tolerance")


class Absence(Detector):
    """A channel that stopped reporting 离线."""

    kind: Literal["absence"]
    after_intervals: Annotated[float, Field(ge=2)] = 3.0
    """In reporting intervals of the channel …"""
    at_least_s: NonNegativeFloat = 60.0
    """… and no shorter than this."""
    severity: SeverityName
    shaping: ClassVar[tuple[str, ...]] = ("kind", "sensor")


AnyDetector = Annotated[Threshold | Rate | Flat | Absence, Field(discriminator="kind")]


class Segment(Model):
    """A stretch of a test signal: a constant, a ramp from where it was, or silence."""

    for_s: PositiveFloat
    value: float | None = None
    to: float | None = None
    silent: bool = False

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.value is not None) + (self.to is not None) + self.silent != 1:
            msg = "give exactly one of value, to, silent"
            raise ValueError(msg)
        return self


class Expected(Model):
    """One event that a case expects, in order: a severity (raised or changed to), or cleared."""

    severity: SeverityName | None = None
    cleared: bool = False
    within_s: tuple[float, float] | None = None
    """Seconds from the start of the signal between which the event's time must lie."""

    @model_validator(mode="after")
    def _one_event(self) -> Self:
        if (self.severity is not None) == self.cleared:
            msg = "give either severity or cleared = true"
            raise ValueError(msg)
        return self


class Case(Model):
    """An inline test of a detector."""

    name: Text
    detector: DetectorId
    sensor: Identifier | None = None
    """Which sensor, where the detector watches several; default the first."""
    every_s: PositiveFloat
    signal: tuple[Segment, ...]
    companions: dict[Identifier, tuple[Segment, ...]] = {}
    """Signals of companion sensors on the same device, over the same time."""
    expect: tuple[Expected, ...]


class Pack(Model):
    """One domain: its sensor types, detectors and their cases."""

    domain: Domain
    sensor: tuple[Sensor, ...]
    detector: tuple[AnyDetector, ...] = ()
    case: tuple[Case, ...] = ()

    def sensors_of(self, detector: Detector) -> list[Sensor]:
        """The sensor types that a detector watches; a flat line is not looked for where it is legitimate."""
        wanted = detector.sensors()
        chosen = [s for s in self.sensor if ANY_SENSOR in wanted or s.id in wanted]
        if isinstance(detector, Flat) and ANY_SENSOR in wanted:
            chosen = [s for s in chosen if s.flat_line == "fault"]
        return chosen

    def problems(self) -> list[tuple[str, str]]:
        """What the parts get wrong about each other, as (path, text)."""
        sensors = {s.id: s for s in self.sensor}
        found = [(f"sensor[{name}]", "this id is declared twice") for name in _twice(s.id for s in self.sensor)]
        found += [(f"detector[{name}]", "this id is declared twice") for name in _twice(d.id for d in self.detector)]
        found += self._ambiguous_aliases()
        for detector in self.detector:
            at = f"detector[{detector.id}]"
            if not detector.id.startswith(self.domain.id + "."):
                found.append((f"{at}.id", f"must begin with '{self.domain.id}.'"))
            for name in detector.sensors():
                if name not in sensors and name != ANY_SENSOR:
                    found.append((f"{at}.sensor", f"no sensor {name!r} in this pack; there are {', '.join(sensors)}"))
            for companion, state in detector.needs.items():
                name = state.removeprefix("not ")
                if companion not in sensors:
                    found.append((f"{at}.needs", f"no sensor {companion!r} in this pack"))
                elif name not in sensors[companion].states:
                    found.append((f"{at}.needs.{companion}", f"sensor {companion!r} declares no state {name!r}"))
        found += self._too_many_needs()
        detectors = {d.id for d in self.detector}
        found += [
            (f"case[{case.name}].detector", f"no detector {case.detector!r} in this pack")
            for case in self.case
            if case.detector not in detectors
        ]
        return found

    def _too_many_needs(self) -> list[tuple[str, str]]:
        needs: dict[str, set[tuple[str, str]]] = {}
        for detector in self.detector:
            for sensor in self.sensors_of(detector):
                needs.setdefault(sensor.id, set()).update(detector.needs.items())
        return [
            (f"sensor[{sensor}]", f"its detectors have {len(found)} different needs; at most {MAX_NEEDS}")
            for sensor, found in needs.items()
            if len(found) > MAX_NEEDS
        ]

    def _ambiguous_aliases(self) -> list[tuple[str, str]]:
        owner: dict[str, str] = {}
        return [
            (f"sensor[{sensor.id}].aliases", f"{alias!r} already names {owner[alias]!r}")
            for sensor in self.sensor
            for alias in dict.fromkeys((sensor.id, *sensor.aliases))
            if owner.setdefault(alias, sensor.id) != sensor.id
        ]


def _twice(names: Any) -> list[str]:  # noqa: ANN401 - any iterable of str
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def severity_of(name: SeverityName) -> Severity:
    """The number behind a severity's name.

    >>> int(severity_of("red"))
    4
    """
    return Severity[name.upper()]
