"""MQTT: messages are acknowledged when they are committed, and the broker keeps what is not.

aiomqtt acknowledges before our code sees a message and spends a task on each. So its paho client is told to leave the
acknowledgement to us, and messages go from paho's callback into a deque that the pipeline empties at once.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiomqtt
import structlog
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from lifeline_stream.sources import Message, Token, names_of

if TYPE_CHECKING:
    from paho.mqtt.client import MQTTMessage

log = structlog.get_logger(__name__)

SESSION_EXPIRY_S = 7 * 86_400
"""How long the broker keeps readings while we are away."""
RECEIVE_MAXIMUM = 65_535
"""Messages the broker may have in flight; a lower number makes some brokers drop what exceeds it."""
MAX_WAITING_BYTES = 256 << 20
"""Above this the socket is left unread until the pipeline has taken what waits."""
SESSION_TAKEN_OVER = 0x8E
CONNECT_TIMEOUT_S = 5.0
FIRST_TIMEOUT_S = 2.0
"""A broker that speaks no MQTT 5 may just stay silent, so the first attempt is short."""
BACK_OFF_S = (0.2, 30.0)
TAKEN_OVER_PAUSE_S = 5.0


class MqttSource:
    """A persistent session with manual acknowledgement: MQTT 5, or 3.1.1 where the broker speaks no 5."""

    def __init__(  # noqa: PLR0913 - the parts of a connection
        self,
        host: str,
        port: int,
        *,
        client_id: str,
        topics: Sequence[str],
        username: str = "",
        password: str = "",
        tls_ca_file: Path | None = None,
        on_reconnect: Callable[[], None] = lambda: None,
        on_shed: Callable[[], None] = lambda: None,
        on_stale_ack: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare; `run` connects.

        Args:
            host: of the broker.
            port: of the broker.
            client_id: fixed, it names the session.
            topics: filters, subscribed with QoS 1.
            username: empty for none.
            password: of that user.
            tls_ca_file: set for an encrypted connection.
            on_reconnect: called at each connection after the first.
            on_shed: called for each QoS 0 message that is dropped under pressure.
            on_stale_ack: called with how many acknowledgements came after their connection was gone.
        """
        self._address = (host, port)
        self._client_id = client_id
        self._topics = topics
        self._login = (username or None, password or None)
        self._tls = ssl.create_default_context(cafile=str(tls_ca_file)) if tls_ca_file else None
        self._on_reconnect, self._on_shed, self._on_stale_ack = on_reconnect, on_shed, on_stale_ack
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._client: aiomqtt.Client | None = None
        self._connection = 0
        self._paused_socket: int | None = None
        self._v5 = True
        self._resumed_us = 0
        self.taken_over = False
        """Whether the last connection ended because another client took the session."""

    @property
    def connected(self) -> bool:
        """Whether the session is up."""
        return self._client is not None

    @property
    def resumed_us(self) -> int:
        """When the session last came up, µs since 1970 UTC."""
        return self._resumed_us

    @property
    def waiting(self) -> int:
        """Messages received and not yet taken."""
        return len(self._waiting)

    @property
    def protocol(self) -> str:
        """What is spoken: `5` or `3.1.1`."""
        return "5" if self._v5 else "3.1.1"

    async def run(self) -> None:
        """Keep the session up until cancelled."""
        least, most = BACK_OFF_S
        pause_s = least
        while True:
            try:
                await self._session()
            except aiomqtt.MqttError as error:
                was_up = self._client is not None
                self._client = None
                pause_s = least if was_up else min(most, pause_s * 2)
                self.taken_over = _reason(error) == SESSION_TAKEN_OVER
                if self.taken_over:
                    pause_s = TAKEN_OVER_PAUSE_S
                log.warning("mqtt connection lost" if was_up else "mqtt connection refused", error=str(error), mqtt=self.protocol)
                if not was_up and self._speaks_no_5(error):
                    self._v5 = False
                    log.info("trying mqtt 3.1.1")
                    continue
            finally:
                self._client = None
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret

    def _speaks_no_5(self, error: aiomqtt.MqttError) -> bool:
        """Whether the broker was there and would not speak MQTT 5: it said so, or hung up without an answer."""
        if not self._v5:
            return False
        if isinstance(error, MqttConnectError):
            return _reason(error) in (0x01, 0x80, 0x84)
        return "timed out" in str(error).lower()

    async def _session(self) -> None:
        client = self._make_client()
        paho = client._client  # noqa: SLF001 - aiomqtt has no way to acknowledge by hand
        paho.manual_ack_set(True)  # noqa: FBT003 - paho's signature
        self._connection += 1
        connection = self._connection
        paho.on_message = lambda _client, _data, message: self._receive(connection, message)
        try:
            await self._hold(client)
        finally:
            paho._sock_close()  # noqa: SLF001 - a connection that failed half-way would stay open

    async def _hold(self, client: aiomqtt.Client) -> None:
        """Connect, subscribe, and stay until the connection ends."""
        async with client:
            if self._resumed_us:
                self._on_reconnect()
            self._resumed_us = time.time_ns() // 1000
            self._client = client
            await client.subscribe([(topic, 1) for topic in self._topics])
            log.info("mqtt connected", host=self._address[0], port=self._address[1], mqtt=self.protocol)
            await client._disconnected  # noqa: SLF001 - aiomqtt shows it only through its message iterator

    def _make_client(self) -> aiomqtt.Client:
        host, port = self._address
        user, password = self._login
        shared: dict[str, Any] = {
            "username": user,
            "password": password,
            "identifier": self._client_id,
            "tls_context": self._tls,
            "timeout": FIRST_TIMEOUT_S if self._connection == 0 else CONNECT_TIMEOUT_S,
        }
        if not self._v5:
            return aiomqtt.Client(host, port, protocol=aiomqtt.ProtocolVersion.V311, clean_session=False, **shared)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        return aiomqtt.Client(
            host, port, protocol=aiomqtt.ProtocolVersion.V5, clean_start=False, properties=properties, **shared
        )  # fmt: skip

    def _receive(self, connection: int, message: MQTTMessage) -> None:
        full = self._waiting_bytes > MAX_WAITING_BYTES
        if full and message.qos == 0:
            self._on_shed()
            return
        topic, payload = message.topic, bytes(message.payload)
        token = Token(connection, message.mid, message.qos)
        self._waiting.append(Message(topic, payload, time.time_ns() // 1000, *names_of(topic), token))
        self._waiting_bytes += len(payload)
        self._arrived.set()
        if full:
            self._pause()

    def _pause(self) -> None:
        """Leave the socket unread; the broker holds the rest."""
        if self._client is None or self._paused_socket is not None:
            return
        sock = self._client._client.socket()  # noqa: SLF001
        if sock is not None:
            self._paused_socket = sock.fileno()
            asyncio.get_running_loop().remove_reader(self._paused_socket)

    def _resume(self) -> None:
        paused, self._paused_socket = self._paused_socket, None
        client = self._client
        sock = client._client.socket() if client else None  # noqa: SLF001
        if client is not None and sock is not None and sock.fileno() == paused:
            asyncio.get_running_loop().add_reader(sock.fileno(), client._client.loop_read)  # noqa: SLF001

    async def take(self, timeout_s: float) -> list[Message]:
        """All messages that wait; none when the time runs out."""
        if not self._waiting:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), timeout_s)
            except TimeoutError:
                return []
        else:
            await asyncio.sleep(0)  # let the socket be read between two takes
        taken = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._paused_socket is not None:
            self._resume()
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge what came over the present connection; the rest will come again and is then a duplicate."""
        stale = 0
        for message in messages:
            if message.token.qos == 0:
                continue
            if self._client is None or message.token.connection != self._connection:
                stale += 1
                continue
            self._client._client.ack(message.token.packet_id, message.token.qos)  # noqa: SLF001
        if stale:
            self._on_stale_ack(stale)


def _reason(error: aiomqtt.MqttError) -> int | None:
    code = getattr(error, "rc", None)
    value = getattr(code, "value", code)
    return value if isinstance(value, int) else None
