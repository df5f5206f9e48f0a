"""Whether a broker keeps what it acknowledges: messages for a session that is away, and how many of them come back.

Brokers bound what they queue for a session, by number and by default, and drop the rest after they have acknowledged it
to its publisher; so only counting shows it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from lifeline_stream.errors import TransientError
from lifeline_stream.sources.mqtt import RECEIVE_MAXIMUM

TOPIC = "lifeline/doctor"
"""The probe's messages go below it."""
N_MESSAGES = 2_500
"""More than twice what the usual brokers queue by default, 1,000."""
AWAY_RECEIVE_MAXIMUM = 20
"""The session that goes away announces few: some brokers queue as many more, which would hide their bound."""
SESSION_EXPIRY_S = 300
"""For a probe that is killed; one that ends removes its session itself."""
CONNECT_S = 5.0
PUBLISH_S = 60.0
QUIET_S = 3.0
"""When nothing has come for so long, nothing more will."""
_REFUSED = 0x80

_silent = logging.getLogger("lifeline.probe")
_silent.setLevel(logging.CRITICAL)


@dataclass(slots=True)
class Probed:
    """What a probe found.

    Attributes:
        protocol: what the broker speaks, `5` or `3.1.1`.
        n_sent: messages that it acknowledged to their publisher.
        n_back: how many of them the session got when it came back.
        n_refused: messages that the broker did not let us publish.
    """

    protocol: str
    n_sent: int = 0
    n_back: int = 0
    n_refused: int = 0


@dataclass(slots=True)
class BrokerProbe:
    """How to reach a broker."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    tls: SSLContext | None = None

    async def run(self) -> Probed:
        """Ask the broker what it speaks, and count what it keeps; nothing of the probe stays there.

        Raises:
            TransientError: it refuses us, or is out of reach.
        """
        name = f"lifeline-doctor-{secrets.token_hex(6)}"
        try:
            found = Probed(await self._protocol(name))
            try:
                await self._probe(name, found)
            finally:
                async with self._session(name, found.protocol, clean=True):
                    pass  # connecting clean removes the session
        except (aiomqtt.MqttError, OSError) as error:
            text = (
                f"{self.host}:{self.port} can't be used: {error}; see mqtt.host, mqtt.port and our user's rights there"
            )
            raise TransientError(text) from error
        return found

    async def _protocol(self, name: str) -> str:
        """MQTT 5 where the broker speaks it; one that does not refuses it, or just stays silent."""
        try:
            async with self._session(f"{name}-ask", "5", clean=True):
                return "5"
        except aiomqtt.MqttError:
            async with self._session(f"{name}-ask", "3.1.1", clean=True):
                return "3.1.1"

    async def _probe(self, name: str, found: Probed) -> None:
        topic = f"{TOPIC}/{name}"
        async with self._session(name, found.protocol, receive_maximum=AWAY_RECEIVE_MAXIMUM) as away:
            await away.subscribe(topic, qos=1)
        async with self._session(f"{name}-publish", found.protocol, clean=True) as publisher:
            _count_refused(publisher, found)
            payloads = (b"%d" % i for i in range(N_MESSAGES))
            await asyncio.gather(*(publisher.publish(topic, p, qos=1, timeout=PUBLISH_S) for p in payloads))
            found.n_sent = N_MESSAGES - found.n_refused
        async with self._session(name, found.protocol) as back:
            payloads_back: set[bytes] = set()
            while len(payloads_back) < found.n_sent:
                try:
                    async with asyncio.timeout(QUIET_S):
                        payloads_back.add(bytes((await anext(back.messages)).payload))
                except TimeoutError:
                    break
            found.n_back = len(payloads_back)

    @asynccontextmanager
    async def _session(
        self, identifier: str, protocol: str, *, clean: bool = False, receive_maximum: int = RECEIVE_MAXIMUM
    ) -> AsyncIterator[aiomqtt.Client]:
        """One connection; a session that is not clean outlives it."""
        shared: dict[str, Any] = {
            "username": self.username or None,
            "password": self.password or None,
            "identifier": identifier,
            "tls_context": self.tls,
            "timeout": CONNECT_S,
            "logger": _silent,
        }
        if protocol == "5":
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else SESSION_EXPIRY_S
            properties.ReceiveMaximum = receive_maximum
            shared |= {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": clean, "properties": properties}
        else:
            shared |= {"protocol": aiomqtt.ProtocolVersion.V311, "clean_session": clean}
        async with aiomqtt.Client(self.host, self.port, **shared) as client:
            yield client


def _count_refused(client: aiomqtt.Client, found: Probed) -> None:
    """MQTT 5 says with each acknowledgement whether the message was taken; aiomqtt passes over it."""
    paho = client._client  # noqa: SLF001
    noted: Any = paho.on_publish

    def on_publish(*arguments: Any) -> None:  # noqa: ANN401 - paho's callback
        found.n_refused += arguments[3].value >= _REFUSED
        noted(*arguments)

    paho.on_publish = on_publish
