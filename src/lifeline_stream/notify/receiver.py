"""A little webhook receiver that verifies what it gets: for the demo, and as an example of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook as Signer

_REMEMBERED = 10_000


class Receiver:
    """Verifies signatures, takes each id once, and counts."""

    def __init__(self, secret: str, on_verified: Callable[[dict[str, Any]], None]) -> None:
        """Call `on_verified` with the body of each new message that is signed with the secret."""
        self._signer = Signer(secret)
        self._on_verified = on_verified
        self._seen: dict[str, None] = {}
        self.n_verified = self.n_repeated = self.n_refused = 0

    def app(self) -> FastAPI:
        """The endpoint, at any path."""
        app = FastAPI(openapi_url=None)
        app.add_api_route("/{path:path}", self._receive, methods=["POST"])
        return app

    async def _receive(self, request: Request) -> Response:
        body = await request.body()
        try:
            self._signer.verify(body, dict(request.headers))
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is refused
            self.n_refused += 1
            return Response("signature does not fit", status_code=401)
        id_ = request.headers["webhook-id"]
        if id_ in self._seen:
            self.n_repeated += 1
            return Response(status_code=204)
        self._seen[id_] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self.n_verified += 1
        self._on_verified(msgspec.json.decode(body))
        return Response(status_code=204)
