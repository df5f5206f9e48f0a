"""What people read: the book of alarms, page by page."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from lifeline_stream.store import sql
from lifeline_stream.store.database import QUERY_S, Queryable, budget

SQL = sql.load(__file__)


class AlarmRow(NamedTuple):
    """One row of `alarm_v`; times in UTC."""

    alarm_id: str
    channel: str
    asset: str
    asset_name: str
    county: str
    domain: str
    sensor: str
    unit: str
    detector: str
    class_: str
    severity: int
    peak_severity: int
    active: bool
    onset: datetime
    raised_at: datetime
    cleared_at: datetime | None
    value: float
    limit_value: float
    found_late: bool
    withdrawn: bool
    why: str
    source: str
    action: str


class AlarmPage(NamedTuple):
    """Some of the alarms that were asked for, and how many there are."""

    alarms: list[AlarmRow]
    total: int


class UnknownName(NamedTuple):
    """A name that a gateway sent and the registry does not know."""

    source: str
    detail: str
    n_readings: int
    last_at: datetime


async def alarms(  # noqa: PLR0913 - one argument per filter
    database: Queryable,
    *,
    active: bool | None = None,
    severity: int | None = None,
    domain: str | None = None,
    county: str | None = None,
    limit: int = 50,
    offset: int = 0,
) -> AlarmPage:
    """Alarms that pass every given filter, newest first.

    Args:
        database: to read from.
        active: those that hold, or those that have ended.
        severity: this one and those above.
        domain: of the channel.
        county: first county of the asset.
        limit: at most so many.
        offset: leaving out so many.
    """
    filters = (active, severity, domain, county)
    async with budget(QUERY_S, "read the alarms"):
        total = await database.fetchval(SQL["count_alarms"], *filters)
        rows = await database.fetch(SQL["alarms"], *filters, limit, offset)
    return AlarmPage([AlarmRow(*row) for row in rows], total)


async def newest_alarms(database: Queryable, limit: int) -> list[AlarmRow]:
    """The alarms raised last, newest first."""
    async with budget(QUERY_S, "read the newest alarms"):
        return [AlarmRow(*row) for row in await database.fetch(SQL["alarms"], None, None, None, None, limit, 0)]


async def open_by_severity(database: Queryable) -> dict[int, int]:
    """How many alarms hold, by severity; a severity without one is missing."""
    async with budget(QUERY_S, "count the alarms"):
        return dict(await database.fetch(SQL["open_by_severity"]))


async def unknown_channels(database: Queryable) -> list[UnknownName]:
    """Names that were refused as unknown, the latest first."""
    async with budget(QUERY_S, "read the rejects"):
        return [UnknownName(*row) for row in await database.fetch(SQL["unknown_channels"])]


async def open_by_domain(database: Queryable) -> dict[str, int]:
    """How many alarms hold, by domain; a domain without one is missing."""
    async with budget(QUERY_S, "count the alarms"):
        return dict(await database.fetch(SQL["open_by_domain"]))


async def raised_by_domain(database: Queryable, after_seq: int) -> dict[str, int]:
    """How many alarms were raised in groups after a stored `group_seq`, by domain."""
    async with budget(QUERY_S, "count the alarms"):
        return dict(await database.fetch(SQL["raised_by_domain"], after_seq))


async def rejected_by_source(database: Queryable, after_seq: int) -> dict[str, int]:
    """How many readings were rejected in groups after a stored `group_seq`, by source."""
    async with budget(QUERY_S, "count the rejects"):
        return dict(await database.fetch(SQL["rejected_by_source"], after_seq))
