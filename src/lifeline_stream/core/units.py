"""Units: the spellings that gateways use, and conversions with value and interval kept apart.

A unit is linear: base value = x × scale + offset, so a conversion has a scale and an offset, and only values see the
offset: a difference of 10 K is one of 10 °C. Gas concentrations cross quantities with the gas's own constants, which
the sensor type declares: %LEL by its lower explosive limit, mg/m³ ↔ ppm by its molar mass at a temperature and
101.325 kPa.
"""

from __future__ import annotations

from typing import NamedTuple

GAS_CONSTANT_J_PER_MOL_K = 8.314462618
ATMOSPHERE_PA = 101_325.0
ZERO_C_IN_K = 273.15
GRAVITY_M_PER_S2 = 9.80665


class UnitError(ValueError):
    """A unit can't be used here; the message names it and the remedy."""


class UnknownUnit(UnitError):  # noqa: N818 - named by what is the matter
    """No unit has this spelling."""


class ForeignUnit(UnitError):  # noqa: N818
    """The unit measures another quantity."""


class MissingConstant(UnitError):  # noqa: N818
    """The sensor type does not declare the gas constant that this conversion needs."""


class Unit(NamedTuple):
    """What a unit measures, and how a value in it becomes the quantity's base: x × scale + offset."""

    quantity: str
    scale: float = 1.0
    offset: float = 0.0


class Conversion(NamedTuple):
    """From one unit to another: value × scale + offset."""

    scale: float
    offset: float

    def value(self, x: float) -> float:
        """Convert a value: 20 °C is 293.15 K."""
        return x * self.scale + self.offset

    def interval(self, x: float) -> float:
        """Convert a difference: 20 °C more is 20 K more."""
        return x * self.scale


UNITS: dict[str, Unit] = {
    "1": Unit("state"),
    "%": Unit("ratio"),
    "%RH": Unit("humidity"),
    # pressure, base kPa
    "Pa": Unit("pressure", 1e-3),
    "hPa": Unit("pressure", 0.1),
    "kPa": Unit("pressure"),
    "MPa": Unit("pressure", 1e3),
    "bar": Unit("pressure", 100.0),
    "mbar": Unit("pressure", 0.1),
    "mH2O": Unit("pressure", GRAVITY_M_PER_S2),
    "kgf/cm²": Unit("pressure", 98.0665),
    "psi": Unit("pressure", 6.894757293168),
    # temperature, base K
    "K": Unit("temperature"),
    "°C": Unit("temperature", 1.0, ZERO_C_IN_K),
    "°F": Unit("temperature", 5 / 9, 459.67 * 5 / 9),
    # length and motion
    "µm": Unit("length", 1e-6),
    "mm": Unit("length", 1e-3),
    "cm": Unit("length", 1e-2),
    "m": Unit("length"),
    "mm/s": Unit("velocity", 1e-3),
    "m/s": Unit("velocity"),
    "km/h": Unit("velocity", 1 / 3.6),
    "m/s²": Unit("acceleration"),
    "mm/s²": Unit("acceleration", 1e-3),
    "gal": Unit("acceleration", 1e-2),
    "g_n": Unit("acceleration", GRAVITY_M_PER_S2),
    "mg_n": Unit("acceleration", GRAVITY_M_PER_S2 * 1e-3),
    "°": Unit("angle"),
    "rad": Unit("angle", 57.29577951308232),
    "mrad": Unit("angle", 0.05729577951308232),
    "µε": Unit("strain", 1e-6),
    "mm/m": Unit("strain", 1e-3),
    "Hz": Unit("frequency"),
    "kHz": Unit("frequency", 1e3),
    "rpm": Unit("frequency", 1 / 60),
    # force, mass, energy
    "N": Unit("force", 1e-3),
    "kN": Unit("force"),
    "MN": Unit("force", 1e3),
    "kg": Unit("mass", 1e-3),
    "t": Unit("mass"),
    "kWh": Unit("energy", 3.6e-3),
    "MWh": Unit("energy", 3.6),
    "MJ": Unit("energy", 1e-3),
    "GJ": Unit("energy"),
    "kW": Unit("power"),
    "MW": Unit("power", 1e3),
    "GJ/h": Unit("power", 1e6 / 3600),
    # flow
    "m³": Unit("volume"),
    "L": Unit("volume", 1e-3),
    "m³/h": Unit("volume_flow"),
    "m³/s": Unit("volume_flow", 3600.0),
    "m³/d": Unit("volume_flow", 1 / 24),
    "L/s": Unit("volume_flow", 3.6),
    "L/min": Unit("volume_flow", 0.06),
    "L/h": Unit("volume_flow", 1e-3),
    "t/h": Unit("mass_flow"),
    "kg/h": Unit("mass_flow", 1e-3),
    "kg/s": Unit("mass_flow", 3.6),
    # rain
    "mm(rain)": Unit("rainfall"),
    "mm/h": Unit("rain_rate"),
    "mm/min": Unit("rain_rate", 60.0),
    # concentration
    "%VOL": Unit("gas_fraction", 1e-2),
    "ppm": Unit("gas_fraction", 1e-6),
    "ppb": Unit("gas_fraction", 1e-9),
    "%LEL": Unit("gas_fraction"),  # scaled by the gas's own lower explosive limit
    "mg/m³": Unit("mass_concentration"),
    "µg/m³": Unit("mass_concentration", 1e-3),
    "g/m³": Unit("mass_concentration", 1e3),
    "mg/L": Unit("mass_concentration", 1e3),
    "µg/L": Unit("mass_concentration"),
    "g/L": Unit("mass_concentration", 1e6),
    "NTU": Unit("turbidity"),
    "pH": Unit("ph"),
    "µS/cm": Unit("conductivity"),
    "mS/cm": Unit("conductivity", 1e3),
    # electrical and acoustic
    "mV": Unit("voltage", 1e-3),
    "V": Unit("voltage"),
    "mA": Unit("current", 1e-3),
    "A": Unit("current"),
    "Ω": Unit("resistance"),
    "kΩ": Unit("resistance", 1e3),
    "MΩ": Unit("resistance", 1e6),
    "dBm": Unit("signal_level"),
    "dB": Unit("sound_level"),
    "lx": Unit("illuminance"),
    "s": Unit("duration"),
    "min": Unit("duration", 60.0),
    "h": Unit("duration", 3600.0),
}
"""Canonical spelling → unit."""

_SPELLINGS: dict[str, tuple[str, ...]] = {
    "1": ("bool", "-", "无"),
    "%": ("percent", "％"),
    "%RH": ("rh", "％rh"),
    "mH2O": ("mh₂o", "mwc", "米水柱"),
    "kgf/cm²": ("kgf/cm2", "kg/cm2", "kg/cm²"),
    "°C": ("℃", "c", "degc", "deg_c", "celsius", "摄氏度"),
    "°F": ("℉", "degf", "fahrenheit"),
    "K": ("kelvin",),
    "µm": ("um", "μm"),
    "m": ("米",),
    "mm": ("毫米",),
    "cm": ("厘米",),
    "m/s²": ("m/s2", "m/s^2"),
    "mm/s²": ("mm/s2", "mm/s^2"),
    "g_n": ("g",),
    "mg_n": ("mg",),
    "°": ("deg", "degree", "度"),
    "µε": ("με", "ue", "ustrain", "microstrain", "um/m", "μm/m", "µm/m", "um\\m", "微应变"),
    "rpm": ("r/min", "转/分"),
    "t": ("ton", "吨"),
    "m³": ("m3", "m^3", "立方米"),
    "L": ("升",),
    "m³/h": ("m3/h", "m^3/h", "cmh", "立方米/小时", "方/时"),
    "m³/s": ("m3/s", "m^3/s", "立方米/秒"),
    "m³/d": ("m3/d", "m^3/d"),
    "t/h": ("吨/小时",),
    "%VOL": ("vol%", "%v/v", "vol", "％vol"),
    "%LEL": ("lel", "lel%", "％lel"),
    "mg/m³": ("mg/m3", "mg/m^3"),
    "µg/m³": ("ug/m3", "μg/m3", "μg/m³"),
    "g/m³": ("g/m3",),
    "µg/L": ("ug/l", "μg/l"),
    "NTU": ("fnu",),
    "µS/cm": ("us/cm", "μs/cm"),
    "Ω": ("ohm", "ω", "欧"),
    "kΩ": ("kohm", "kω"),
    "V": ("伏",),
    "lx": ("lux",),
    "s": ("sec", "秒"),
    "min": ("分钟",),
    "h": ("hour", "小时"),
}
_CASE_SENSITIVE = {"MPa", "mPa", "MW", "mW", "MN", "mN", "MΩ", "mΩ", "Mohm"}
"""Spellings that differ from another only by the case of a prefix."""


def _by_spelling() -> dict[str, str]:
    names = {canonical.lower(): canonical for canonical in UNITS}
    return names | {spelling.lower(): unit for unit, spellings in _SPELLINGS.items() for spelling in spellings}


_KNOWN = _by_spelling()


def parse_unit(text: str) -> str:
    """The canonical spelling of a unit, however a gateway writes it.

    Raises:
        UnknownUnit: nobody writes it so.

    >>> parse_unit("℃"), parse_unit("m3/h"), parse_unit("um/m"), parse_unit("KPA")
    ('°C', 'm³/h', 'µε', 'kPa')
    """
    stripped = text.strip().replace(" ", "")
    if stripped in UNITS:
        return stripped
    found = None if stripped in _CASE_SENSITIVE else _KNOWN.get(stripped.lower())
    if found is None:
        raise UnknownUnit(f"unit {text!r} is not known")
    return found


def conversion(
    from_unit: str,
    to_unit: str,
    *,
    molar_mass_g_per_mol: float | None = None,
    lel_percent_vol: float | None = None,
    temperature_c: float = 20.0,
) -> Conversion:
    """How values in one unit become values in another.

    Args:
        from_unit: canonical spelling.
        to_unit: canonical spelling.
        molar_mass_g_per_mol: of the gas, for mg/m³ ↔ ppm.
        lel_percent_vol: lower explosive limit of the gas, for %LEL.
        temperature_c: of the gas, for mg/m³ ↔ ppm.

    Raises:
        UnknownUnit: no canonical spelling.
        ForeignUnit: the quantities differ.
        MissingConstant: the gas's constant is not given.

    >>> round(conversion("mg/m³", "ppm", molar_mass_g_per_mol=34.08).value(10.0), 2)
    7.06
    """
    start, end = (_unit(name, lel_percent_vol) for name in (from_unit, to_unit))
    factor = 1.0
    if start.quantity != end.quantity:
        factor = _across(from_unit, to_unit, start, end, molar_mass_g_per_mol, temperature_c)
    return Conversion(start.scale * factor / end.scale, (start.offset * factor - end.offset) / end.scale)


def _unit(name: str, lel_percent_vol: float | None) -> Unit:
    if name not in UNITS:
        raise UnknownUnit(f"unit {name!r} is not known")
    if name != "%LEL":
        return UNITS[name]
    if lel_percent_vol is None:
        raise MissingConstant("%LEL needs the gas's lower explosive limit: declare substance.lel_percent_vol")
    return Unit("gas_fraction", lel_percent_vol * 1e-4)


def _across(  # noqa: PLR0913, PLR0917 - two units by name and value, and the gas
    from_unit: str, to_unit: str, start: Unit, end: Unit, molar_mass: float | None, temperature_c: float
) -> float:
    """Between a volume fraction (base 1) and a mass concentration (base mg/m³) of one gas."""
    if {start.quantity, end.quantity} != {"gas_fraction", "mass_concentration"}:
        raise ForeignUnit(f"unit {from_unit!r} measures {start.quantity}, not {end.quantity} ({to_unit})")
    if molar_mass is None:
        raise MissingConstant(
            f"{from_unit} → {to_unit} needs the gas's molar mass: declare substance.molar_mass_g_per_mol"
        )
    mol_per_m3 = ATMOSPHERE_PA / (GAS_CONSTANT_J_PER_MOL_K * (temperature_c + ZERO_C_IN_K))
    mg_per_m3 = mol_per_m3 * molar_mass * 1e3
    return mg_per_m3 if start.quantity == "gas_fraction" else 1 / mg_per_m3
