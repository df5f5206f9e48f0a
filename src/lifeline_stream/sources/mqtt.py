"""MQTT: messages are acknowledged when they are committed, and the broker keeps what is not.

aiomqtt acknowledges before our code sees a message, spends a task on each and reads one packet per turn of the loop.
So its paho client is told to leave the acknowledgement to us, messages go from paho's callback into a deque that the
pipeline empties at once, and the socket is read by our own callback: as long as it holds something, and not at all
while too much waits.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from ssl import SSLContext, SSLError, create_default_context
from typing import TYPE_CHECKING, Any, Literal

import aiomqtt
import structlog
from paho.mqtt.client import MQTT_ERR_SUCCESS
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.sources import Message, Token, names_of

if TYPE_CHECKING:
    from paho.mqtt.client import Client as Paho
    from paho.mqtt.client import MQTTMessage

log = structlog.get_logger(__name__)

TOPICS = ("lifeline/v1/+/+/up",)
SESSION_EXPIRY_S = 14 * 86_400
"""How long the broker keeps readings while we are away."""
RECEIVE_MAXIMUM = 65_535
"""Messages the broker may have in flight; a lower number makes some brokers drop what exceeds it."""
MAX_WAITING_BYTES = 128 << 20
"""Above this the socket is left unread until the pipeline has taken what waits; QoS 0 is shed above half of it."""
OVERHEAD_BYTES = 600
"""What a waiting message costs beside its payload."""
READ_AT_ONCE = 256
"""Packets read before the loop gets a turn."""
KEEPALIVE_S = 60
CONNECT_TIMEOUT_S = 5.0
DISCONNECT_S = 1.0
FIRST_TIMEOUT_S = 2.0
"""A broker that speaks no MQTT 5 may just stay silent, so the first attempt is short."""
BACK_OFF_S = (0.2, 30.0)
STEADY_S = 10.0
"""A connection that lasted less does not end the back-off: two clients of one id throw each other out."""
DOUBT_PAUSE_S = 5.0
"""Pause while it is not known whether the session is still ours."""
SESSION_TAKEN_OVER = 0x8E
_NO_MQTT_5 = (0x01, 0x84)
_PUBACK = 0x40


class MqttSource:
    """A persistent session with manual acknowledgement: MQTT 5, or 3.1.1 where the broker speaks no 5."""

    def __init__(  # noqa: PLR0913 - the parts of a connection
        self,
        host: str,
        port: int,
        *,
        client_id: str,
        topics: Sequence[str] = TOPICS,
        username: str = "",
        password: str = "",
        tls_ca_file: Path | None = None,
        protocol: Literal["auto", "5", "3.1.1"] = "auto",
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        on_reconnect: Callable[[], None] = lambda: None,
        on_shed: Callable[[], None] = lambda: None,
        on_stale_ack: Callable[[int], None] = lambda _: None,
        is_ours: Callable[[], Awaitable[bool]] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare; `run` connects.

        Args:
            host: of the broker.
            port: of the broker.
            client_id: fixed, it names the session.
            topics: filters, subscribed with QoS 1; `$share/GROUP/FILTER` shares a filter among clients.
            username: empty for none.
            password: of that user.
            tls_ca_file: for an encrypted connection, see `tls_context`.
            protocol: `auto` tries 5 first.
            max_waiting_bytes: bound of what is received and not taken, overhead included.
            on_reconnect: called at each connection after the first.
            on_shed: called for each QoS 0 message that is dropped under pressure.
            on_stale_ack: called with how many acknowledgements came after their connection was gone.
            is_ours: asked after a connection was lost, before the next: whether the session is known to be ours; what
                it raises ends `run`.
            rng: for the jitter of pauses.

        Raises:
            ConfigError: the CA file can't be used.
        """
        self._address = (host, port)
        self._client_id = client_id
        self._topics = topics
        self._login = (username or None, password or None)
        self._tls = tls_context(tls_ca_file) if tls_ca_file else None
        self._protocol = protocol
        self._v5 = protocol != "3.1.1"
        self._max_waiting_bytes = max_waiting_bytes
        self._on_reconnect, self._on_shed, self._on_stale_ack = on_reconnect, on_shed, on_stale_ack
        self._is_ours = is_ours
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._client: aiomqtt.Client | None = None
        self._connection = 0
        self._is_up = self._was_up = False
        self._up_s = 0.0
        self._unacknowledged: set[int] = set()
        self._n_received = 0
        self._paused = False
        self._resumed_us = 0
        self._told = ""

    @property
    def connected(self) -> bool:
        """Whether the session is up."""
        return self._is_up

    @property
    def resumed_us(self) -> int:
        """When the session last came up, µs since 1970 UTC; 0 before the first time."""
        return self._resumed_us

    @property
    def waiting(self) -> int:
        """Messages received and not yet taken."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """QoS 1 messages of this connection that are not acknowledged."""
        return len(self._unacknowledged)

    @property
    def paused(self) -> bool:
        """Whether the socket is left unread because too much waits."""
        return self._paused

    @property
    def protocol(self) -> str:
        """What is spoken: `5` or `3.1.1`."""
        return "5" if self._v5 else "3.1.1"

    # ── staying connected ────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Keep the session up until cancelled."""
        n_failed = 0
        while True:
            error = None
            try:
                await self._session()
            except (aiomqtt.MqttError, OSError) as failure:
                error = failure
            _heed_cancelling()  # aiomqtt hides it behind its own error when the broker is silent
            was_up, lasted_s = self._was_up, time.monotonic() - self._up_s
            n_failed = 0 if was_up and lasted_s >= STEADY_S else n_failed + 1
            self._tell("mqtt connection lost" if was_up else "mqtt broker refused or out of reach", error)
            is_ours = await self._may_reconnect(_reason(error)) if was_up else True
            await self._before_next(n_failed, error, was_up=was_up, in_doubt=not is_ours)

    async def _may_reconnect(self, reason: int | None) -> bool:
        """Whether the session is known to be ours after a connection was lost: another process may have taken it.

        A broker may say so (0x8E), and then we wait until it is known; Mosquitto 2.0.11 just closes the connection.
        """
        is_ours = self._is_ours is None or await self._is_ours()
        while not is_ours and reason == SESSION_TAKEN_OVER:
            await asyncio.sleep(DOUBT_PAUSE_S * self._rng.uniform(0.5, 1.0))
            is_ours = self._is_ours is None or await self._is_ours()
        return is_ours

    async def _before_next(self, n_failed: int, error: Exception | None, *, was_up: bool, in_doubt: bool) -> None:
        """Wait, and choose what to speak next."""
        if self._protocol == "auto":
            if self._v5 and not was_up and _reason(error) in _NO_MQTT_5:
                self._protocol, self._v5 = "3.1.1", False
                return
            silent = self._v5 and not was_up and "timed out" in str(error)
            self._v5 = not silent  # silence is tried with 3.1.1 once: the broker may also just have been busy
            if silent:
                return
        least, most = BACK_OFF_S
        pause_s = DOUBT_PAUSE_S if in_doubt else min(most, least * 2.0 ** min(n_failed, 10))
        await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    def _tell(self, what: str, error: Exception | None = None) -> None:
        """Log a change of state, not every attempt."""
        told = f"{what}: {error}"
        if told != self._told:
            say = log.warning if error else log.info
            say(what, host=self._address[0], port=self._address[1], mqtt=self.protocol, error=str(error or "") or None)
        self._told = told

    async def _session(self) -> None:
        """One connection, from its beginning to its end."""
        client = self._make_client()
        paho = client._client  # noqa: SLF001 - aiomqtt has no way to acknowledge by hand
        paho.manual_ack_set(True)  # noqa: FBT003 - paho's signature
        paho.disable_logger()
        paho.on_message = self._receive
        self._unacknowledged.clear()
        self._was_up = False
        # the broker sends what it held before it answers our subscription: that too must be taken and acknowledged
        self._client, self._connection = client, self._connection + 1
        try:
            async with client:
                self._read_by_ourselves(client)
                await self._subscribe(client)
                _heed_cancelling()
                self._came_up()
                client.timeout = DISCONNECT_S  # from here on only the farewell waits for the broker
                await self._until_gone(client)
        finally:
            self._client, self._is_up, self._paused = None, False, False
            paho._sock_close()  # noqa: SLF001 - a connection that failed half-way would stay open
            if client._disconnected.done():  # noqa: SLF001
                client._disconnected.exception()  # noqa: SLF001 - seen, so asyncio need not complain of it

    def _came_up(self) -> None:
        self._is_up = self._was_up = True
        self._up_s = time.monotonic()
        if self._resumed_us:
            self._on_reconnect()
        self._resumed_us = time.time_ns() // 1000
        self._tell("mqtt connected")

    def _make_client(self) -> aiomqtt.Client:
        host, port = self._address
        user, password = self._login
        shared: dict[str, Any] = {
            "username": user,
            "password": password,
            "identifier": self._client_id,
            "tls_context": self._tls,
            "keepalive": KEEPALIVE_S,
            "timeout": CONNECT_TIMEOUT_S if self._resumed_us or self._protocol != "auto" else FIRST_TIMEOUT_S,
        }
        if not self._v5:
            return aiomqtt.Client(host, port, protocol=aiomqtt.ProtocolVersion.V311, clean_session=False, **shared)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        shared |= {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": False, "properties": properties}
        return aiomqtt.Client(host, port, **shared)

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        codes = await client.subscribe([(topic, 1) for topic in self._topics])
        for topic, code in zip(self._topics, codes, strict=True):
            if getattr(code, "is_failure", False):
                raise aiomqtt.MqttError(f"may not subscribe to {topic!r}: {code}; see the broker's access rules")

    async def _until_gone(self, client: aiomqtt.Client) -> None:
        """Wait for the end of the connection; while the socket is left unread, keep paho from thinking it dead."""
        gone = client._disconnected  # noqa: SLF001 - aiomqtt shows it only through its message iterator
        while not gone.done():
            await asyncio.wait([gone], timeout=KEEPALIVE_S / 4)
            if self._paused:
                client._client._last_bytes_received = time.monotonic()  # noqa: SLF001
                client._client._ping_t = 0  # noqa: SLF001 - its answer waits behind what is left unread
        gone.result()

    # ── receiving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_by_ourselves(self, client: aiomqtt.Client) -> None:
        """Put our callback in the place of aiomqtt's, and call it once for what was read with the CONNACK."""
        sock = client._client.socket()  # noqa: SLF001
        if sock is not None and sock.fileno() >= 0:
            asyncio.get_running_loop().add_reader(sock.fileno(), self._read, client)
            if _holds_decrypted(client._client):  # noqa: SLF001
                self._read(client)

    def _read(self, client: aiomqtt.Client) -> None:
        """Read packets as long as the socket holds some, no more than READ_AT_ONCE, and none while too much waits."""
        paho = client._client  # noqa: SLF001
        try:
            for _ in range(READ_AT_ONCE):
                n_received = self._n_received
                if paho.loop_read() != MQTT_ERR_SUCCESS:
                    return
                if self._waiting_bytes > self._max_waiting_bytes:
                    self._pause(paho)
                    return
                if self._n_received == n_received and not _holds_decrypted(paho):
                    return
        except Exception as error:  # noqa: BLE001 - as aiomqtt does: whatever it is, the connection is over
            if not client._disconnected.done():  # noqa: SLF001
                client._disconnected.set_exception(aiomqtt.MqttError(f"{type(error).__name__}: {error}"))  # noqa: SLF001

    def _receive(self, _client: Paho, _data: Any, message: MQTTMessage) -> None:  # noqa: ANN401 - paho's callback
        self._n_received += 1
        if message.qos == 0 and self._waiting_bytes > self._max_waiting_bytes // 2:
            self._on_shed()
            return
        if message.qos:
            self._unacknowledged.add(message.mid)
        topic, payload = _topic(message), bytes(message.payload)
        token = Token(self._connection, message.mid, message.qos)
        self._waiting.append(Message(topic, payload, time.time_ns() // 1000, *names_of(topic), token))
        self._waiting_bytes += len(payload) + OVERHEAD_BYTES
        self._arrived.set()

    def _pause(self, paho: Paho) -> None:
        """Leave the socket unread; the broker holds the rest."""
        sock = paho.socket()
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            self._paused = True

    async def take(self, timeout_s: float) -> list[Message]:
        """All messages that wait; none when the time runs out."""
        if self._waiting:
            await asyncio.sleep(0)  # let the socket be read between two takes
        else:
            self._arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        taken = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._paused and self._client is not None:
            self._paused = False
            self._read_by_ourselves(self._client)
        return taken

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge what came over the present connection; the rest will come again and is then a duplicate.

        All acknowledgements go out as one write: one by one they are a system call each.
        """
        owed = [message.token for message in messages if message.token.qos]
        client = self._client
        current = [token.packet_id for token in owed if client is not None and token.connection == self._connection]
        ours = [packet_id for packet_id in current if packet_id in self._unacknowledged]
        if client is not None and ours:
            self._unacknowledged.difference_update(ours)
            packets = b"".join(struct.pack("!BBH", _PUBACK, 2, packet_id) for packet_id in ours)
            client._client._packet_queue(_PUBACK, packets, ours[0], 1)  # noqa: SLF001 - paho's `ack` sends one at a time
        if len(current) < len(owed):
            self._on_stale_ack(len(owed) - len(current))


def tls_context(ca_file: Path) -> SSLContext:
    """Check the broker's certificate against a CA.

    Raises:
        ConfigError: the file can't be used.
    """
    try:
        return create_default_context(cafile=str(ca_file))
    except (OSError, SSLError) as error:
        raise ConfigError([Problem(str(ca_file), "", "mqtt.tls_ca_file", f"can't be used: {error}")]) from None


def _heed_cancelling() -> None:
    """End a task that was cancelled: `asyncio.wait_for` of Python 3.11 swallows it when its answer comes just then."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _holds_decrypted(paho: Paho) -> bool:
    """Whether TLS has decrypted more than was read: the loop would not call us for it."""
    pending = getattr(paho.socket(), "pending", None)
    return pending is not None and pending() > 0


def _topic(message: MQTTMessage) -> str:
    try:
        return message.topic
    except UnicodeDecodeError:
        return message._topic.decode(errors="replace")  # noqa: SLF001 - handed over, to be rejected by name


def _reason(error: Exception | None) -> int | None:
    code = getattr(error, "rc", None)
    value = getattr(code, "value", code)
    return value if isinstance(value, int) else None
