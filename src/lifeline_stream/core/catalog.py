"""The city as declared: districts, assets, devices and channels, and the index that readings carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple


class District(NamedTuple):
    """A county 县区 or the city itself."""

    district_id: str
    name: str
    kind: str
    parent: str


class Asset(NamedTuple):
    """A thing that is watched: a main, a chamber, a span, a station."""

    asset_id: str
    name: str
    domain: str
    kind: str
    districts: tuple[str, ...]
    owner: str
    lon: float
    lat: float
    risk: str


class Device(NamedTuple):
    """A field device, and the one gateway that may speak for it."""

    device_id: str
    gateway_id: str
    asset_id: str
    model: str


class Adjacency(NamedTuple):
    """Two assets between which a hazard can travel."""

    from_asset: str
    to_asset: str
    relation: str
    distance_m: float


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity of one device.

    Attributes:
        id: unique in the city, by custom `device/sensor`.
        ix: dense index that readings carry; stable for the life of the channel.
        device: device that measures it.
        gateway: the gateway that may publish it.
        asset: asset that it watches.
        county: first county of the asset; empty for the city's own.
        domain: domain of the sensor type's pack.
        sensor: sensor type as `domain.sensor`.
        code: name that the gateway uses; empty when the sensor type's id and aliases are all accepted.
        unit: unit that the gateway uses when it states none; empty for the canonical unit.
        every_s: expected reporting interval, s.
    """

    id: str
    ix: int
    device: str
    gateway: str
    asset: str
    county: str
    domain: str
    sensor: str
    code: str
    unit: str
    every_s: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that the registry declares.

    Attributes:
        channels: in order of `ix`; an index whose channel has retired is missing, so `ix` is not the position.
    """

    channels: tuple[Channel, ...]
    districts: tuple[District, ...] = ()
    assets: tuple[Asset, ...] = ()
    devices: tuple[Device, ...] = ()
    adjacency: tuple[Adjacency, ...] = ()
    by_ix: dict[int, Channel] = field(init=False, repr=False, compare=False)
    asset_of: dict[str, Asset] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the channels and assets."""
        object.__setattr__(self, "by_ix", {channel.ix: channel for channel in self.channels})
        object.__setattr__(self, "asset_of", {asset.asset_id: asset for asset in self.assets})

    @property
    def n_ix(self) -> int:
        """Length of an array that is indexed by channel."""
        return self.channels[-1].ix + 1 if self.channels else 0

    def renumbered(self, ix_of: Mapping[str, int]) -> Catalog:
        """The same city with the indices that a store has given out."""
        channels = sorted((replace(c, ix=ix_of[c.id]) for c in self.channels), key=lambda c: c.ix)
        return replace(self, channels=tuple(channels))

    @classmethod
    def of_channels(cls, channels: Iterable[tuple[str, str, float]]) -> Catalog:
        """A catalog without a registry, from (channel, `domain.sensor`, interval in s).

        >>> Catalog.of_channels([("P_1", "water.pressure", 300.0)]).channels[0].domain
        'water'
        """
        return cls(
            tuple(
                Channel(name, ix, name, "", name, "", sensor.partition(".")[0], sensor, "", "", every_s)
                for ix, (name, sensor, every_s) in enumerate(channels)
            ),
        )
