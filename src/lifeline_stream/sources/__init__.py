"""Where readings come from, one foreign library per file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol


class Token(NamedTuple):
    """What acknowledges a message: packet ids are only good within their connection.

    Attributes:
        connection: number of the connection that it came over.
        packet_id: the broker's number for it.
        qos: 0 needs no acknowledgement.
    """

    connection: int
    packet_id: int
    qos: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it came.

    Attributes:
        topic: where it was published.
        payload: the bytes.
        received_us: when we took it, µs since 1970 UTC.
        gateway: who published it, from the topic; empty when the topic has another form.
        device: the topic's device; empty likewise.
        token: for `Source.acknowledge`.
    """

    topic: str
    payload: bytes
    received_us: int
    gateway: str
    device: str
    token: Token


class Source(Protocol):
    """A source that keeps every message until it is acknowledged."""

    async def run(self) -> None:
        """Connect, and reconnect, until cancelled."""

    async def take(self, timeout_s: float) -> list[Message]:
        """All messages that wait; none when the time runs out."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell the other side that these are safe; those of an earlier connection will come again."""

    @property
    def connected(self) -> bool:
        """Whether the source is connected now."""

    @property
    def resumed_us(self) -> int:
        """When it last connected, µs since 1970 UTC; 0 before the first time."""

    @property
    def waiting(self) -> int:
        """Messages received and not yet taken."""

    @property
    def in_flight(self) -> int:
        """Messages of this connection that are not acknowledged yet, those that wait included."""


@lru_cache(maxsize=16_384)
def names_of(topic: str) -> tuple[str, str]:
    """Gateway and device of a topic `lifeline/v1/{gateway}/{device}/up`, or two empty names.

    >>> names_of("lifeline/v1/G01/M001/up")
    ('G01', 'M001')
    >>> names_of("lifeline/v1//M001/up")
    ('', '')
    """
    match topic.split("/"):
        case ["lifeline", "v1", gateway, device, "up"] if gateway and device:
            return gateway, device
    return "", ""
