"""/metrics, /healthz and /readyz, and whatever else a process serves, inside its own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import structlog
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from lifeline_stream.errors import FatalError
from lifeline_stream.observe import Health, Metrics
from lifeline_stream.settings import Http

log = structlog.get_logger(__name__)

SLOW_LOOP_S = 5.0
"""An event loop that has not turned for so long is not alive."""
TURN_S = 0.5


def observing_app(metrics: Metrics, health: Health) -> FastAPI:
    """An application that tells how the process is."""
    app = FastAPI(title="lifeline-stream", version="1", docs_url="/docs", redoc_url=None)

    @app.get("/metrics", include_in_schema=False)
    def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> JSONResponse:
        """The process lives and its event loop turns."""
        slow_s = await _turn_s()
        alive = slow_s < SLOW_LOOP_S
        return JSONResponse({"alive": alive, "loop_s": round(slow_s, 3)}, 200 if alive else 503)

    @app.get("/readyz", tags=["health"])
    async def readyz() -> JSONResponse:
        """Readings are taken: every condition holds."""
        conditions = {
            name: {"holds": c.holds, "since": c.since_s, "detail": c.detail} for name, c in health.conditions.items()
        }
        body = {"status": "ready" if health.ready else "not ready", "conditions": conditions}
        return JSONResponse(body, 200 if health.ready else 503)

    return app


async def _turn_s() -> float:
    """How late the event loop is when it is asked to come back at once, s."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.sleep(0)
    return loop.time() - started


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process that it runs in has some."""

    def install_signal_handlers(self) -> None:
        """Leave signals alone."""


def bind(http: Http) -> socket.socket:
    """The socket to serve on, so that port 0 is known before anybody is told.

    Raises:
        FatalError: the address is taken.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in http.host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((http.host, http.port))
    except OSError as error:
        sock.close()
        raise FatalError(f"can't serve on {http.host}:{http.port}: {error.strerror}; set http.port or --port") from None
    return sock


async def serve(app: FastAPI, sock: socket.socket, on_up: Callable[[], None] = lambda: None) -> None:
    """Serve until cancelled."""
    config = uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False, timeout_graceful_shutdown=2)
    server = _Server(config)
    serving = asyncio.ensure_future(server._serve([sock]))  # noqa: SLF001 - `serve` would take over the signals
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        on_up()
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
    finally:
        sock.close()
