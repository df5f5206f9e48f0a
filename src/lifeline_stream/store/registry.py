"""The registry in the database: the city's tables, and the number that each channel keeps for ever."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.store import sql
from lifeline_stream.store.database import Connection, budget, transaction

SQL = sql.load(__file__)
SYNC_S = 120.0
"""Budget of one synchronisation."""

log = structlog.get_logger(__name__)


async def sync_registry(connection: Connection, catalog: Catalog, unit_of: Mapping[str, str]) -> dict[str, int]:
    """Make the tables equal the declared city; what it no longer declares is retired.

    Args:
        connection: not in a transaction.
        catalog: the city as declared; the indices in it don't matter.
        unit_of: canonical unit by sensor type, `domain.sensor`.

    Returns:
        The number of every declared channel: a known one keeps its own, a new one gets the next.
    """
    assets = [
        (a.asset_id, a.name, a.domain, a.kind, json.dumps(a.districts), a.owner, a.lon, a.lat, a.risk)
        for a in catalog.assets
    ]
    channels = [
        (c.id, c.device, c.asset, c.county, c.domain, c.sensor, unit_of.get(c.sensor, ""), c.every_s)
        for c in catalog.channels
    ]  # fmt: skip
    async with budget(SYNC_S, "store the registry"), transaction(connection):
        await connection.execute(SQL["lock"])
        for table, rows, width in (
            ("district", catalog.districts, 4),
            ("asset", assets, 9),
            ("device", catalog.devices, 4),
            ("channel", channels, 8),
        ):
            columns = _columns(rows, width)
            await connection.execute(SQL[f"put_{table}"], *columns)
            await connection.execute(SQL[f"retire_{table}"], columns[0])
        await connection.execute(SQL["forget_adjacency"])
        await connection.execute(SQL["put_adjacency"], *_columns(catalog.adjacency, 4))
        numbers = dict(await connection.fetch(SQL["numbers"]))
    log.info("registry stored", channels=len(numbers), assets=len(assets))
    return numbers


def _columns(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
