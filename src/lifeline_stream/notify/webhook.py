"""The signed webhook: one POST per alarm event, by the Standard Webhooks specification."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx
from standardwebhooks import Webhook as Signer

from lifeline_stream.errors import ConfigError, Problem

TIMEOUT_S = 10.0
LONGEST_WAIT_S = 3600.0
"""A receiver that asks for more is asked again after this."""
GONE = 410
BUSY = (429, 502, 503, 504)
_SHOWN = 200
"""Characters of an answer that are kept."""


class Outcome(StrEnum):
    """What came of one attempt; also a metric label."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DISABLED = "disabled"


class Delivery(NamedTuple):
    """One attempt.

    Attributes:
        outcome: what came of it.
        detail: status and the beginning of the answer, or the error.
        retry_after_s: when the receiver asked to be tried again, s from now.
    """

    outcome: Outcome
    detail: str
    retry_after_s: float | None = None


class Webhook:
    """One receiver."""

    def __init__(self, url: str, secret: str, *, allow_private: bool = False) -> None:
        """Check address and secret.

        Args:
            url: http or https.
            secret: `whsec_` and 24 to 64 bytes in base64.
            allow_private: whether a name may lead to a private or loopback address; one that is written out may.

        Raises:
            ConfigError: one of them can't be used.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError([Problem("config", "webhook", "url", f"{url!r} is no http or https address")])
        try:
            self._signer = Signer(secret)
        except Exception:  # noqa: BLE001 - the library says it in many ways
            text = "must hold whsec_ and 24 to 64 bytes in base64"
            raise ConfigError([Problem("config", "webhook", "secret_file", text)]) from None
        self.url = url
        self._parts = parts
        self._allow_private = allow_private or _is_literal(parts.hostname)
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def send(self, id_: str, body: bytes) -> Delivery:
        """Try once; a redirect is a failure. The id stays the same over attempts, so the receiver can tell doubles."""
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "webhook-id": id_,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(id_, now, body.decode()),
        }
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._post(headers, body)
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            return Delivery(Outcome.RETRY, f"{type(error).__name__}: {error}"[:_SHOWN])

    async def reach(self) -> str:
        """Resolve and connect, with TLS where it is used, and send nothing.

        Returns:
            Host and port.

        Raises:
            OSError: the receiver is out of reach, or where it may not be.
        """
        async with asyncio.timeout(TIMEOUT_S):
            url, _ = await self._checked()
            address = urlsplit(url)
            tls = httpx.create_ssl_context() if address.scheme == "https" else None
            name = self._parts.hostname if tls else None
            _, writer = await asyncio.open_connection(address.hostname, address.port, ssl=tls, server_hostname=name)
            writer.close()
            return f"{self._parts.hostname}:{address.port}"

    async def _post(self, headers: dict[str, str], body: bytes) -> Delivery:
        url, host = await self._checked()
        extensions = {"sni_hostname": self._parts.hostname} if self._parts.scheme == "https" else {}
        request = self._http.build_request(
            "POST", url, content=body, headers=headers | {"host": host}, extensions=extensions
        )  # fmt: skip
        response = await self._http.send(request, stream=True)
        try:
            shown = b""
            async for chunk in response.aiter_bytes():
                shown += chunk
                if len(shown) >= _SHOWN:
                    break
        finally:
            await response.aclose()
        return judge(response.status_code, response.headers.get("retry-after"), shown[:_SHOWN].decode(errors="replace"))

    async def _checked(self) -> tuple[str, str]:
        """The address with its name resolved, so that what was checked is what is connected to."""
        host = self._parts.hostname or ""
        port = self._parts.port or (443 if self._parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in found]
        if not self._allow_private:
            private = [a for a in addresses if not ipaddress.ip_address(a).is_global]
            if private:
                raise OSError(f"{host} is {private[0]}, which is not public: if that is meant, allow_private")
        address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        return urlunsplit(self._parts._replace(netloc=f"{address}:{port}")), self._parts.netloc.rpartition("@")[2]


def _is_literal(host: str) -> bool:
    """Whether the operator wrote the address itself, so that no name can lead elsewhere."""
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def judge(status: int, retry_after: str | None, text: str) -> Delivery:
    """What an answer means.

    >>> judge(429, "7", "slow down")
    Delivery(outcome=<Outcome.RETRY: 'retry'>, detail='429 slow down', retry_after_s=7.0)
    """
    detail = f"{status} {text}".strip()
    if httpx.codes.is_success(status):
        return Delivery(Outcome.DELIVERED, detail)
    if status == GONE:
        return Delivery(Outcome.DISABLED, detail)
    return Delivery(Outcome.RETRY, detail, _wait_s(retry_after) if status in BUSY else None)


def _wait_s(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After, which is a number or a date; None when there is none to be understood."""
    if retry_after is None:
        return None
    with suppress(ValueError):
        return min(LONGEST_WAIT_S, max(0.0, float(retry_after)))
    with suppress(ValueError):
        wait_s = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        return min(LONGEST_WAIT_S, max(0.0, wait_s))
    return None
