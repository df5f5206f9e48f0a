"""Alarms: the book, page by page."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from lifeline_stream.core.model import Severity
from lifeline_stream.errors import FatalError, TransientError
from lifeline_stream.store.database import Queryable
from lifeline_stream.store.queries import AlarmRow, alarms


class Alarm(BaseModel):
    """One alarm, as the book has it."""

    alarm_id: str
    channel: str
    asset: str
    asset_name: str
    county: str
    domain: str
    sensor: str
    unit: str
    detector: str
    class_: str = Field(serialization_alias="class")
    severity: int
    severity_name: str
    peak_severity: int
    active: bool
    onset: datetime
    raised_at: datetime
    cleared_at: datetime | None
    value: float | None
    limit_value: float | None
    found_late: bool
    withdrawn: bool
    why: str
    source: str
    action: str

    @classmethod
    def of(cls, row: AlarmRow) -> Alarm:
        """From the store's row; a value that is no number is null."""
        fields = row._asdict()
        for name in ("value", "limit_value"):
            fields[name] = fields[name] if fields[name] == fields[name] else None
        return cls(**fields, severity_name=Severity(row.severity).name.lower())


class AlarmList(BaseModel):
    """Some of the alarms that were asked for."""

    total: int
    alarms: list[Alarm]


def router(database: Queryable) -> APIRouter:
    """Routes that read from a database."""
    routes = APIRouter(prefix="/api/v1", tags=["alarms"])

    @routes.get("/alarms")
    async def list_alarms(  # noqa: PLR0913, PLR0917 - one argument per filter
        active: bool | None = None,  # noqa: FBT001 - a query parameter
        severity: Annotated[int | None, Query(ge=1, le=4, description="this one and those above")] = None,
        domain: str | None = None,
        county: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    ) -> AlarmList:
        """Alarms that pass every filter, newest first."""
        filters = {"active": active, "severity": severity, "domain": domain, "county": county}
        page = await alarms(database, **filters, limit=limit, offset=offset)  # type: ignore[arg-type]
        return AlarmList(total=page.total, alarms=[Alarm.of(row) for row in page.alarms])

    return routes


def problem(_request: Request, error: Exception) -> JSONResponse:
    """The database is away, or refuses us for good, as RFC 9457 says such things."""
    passing = isinstance(error, TransientError)
    title = "The database can't be reached" if passing else "The database refuses; is its schema up to date?"
    status = 503 if passing else 500
    headers = {"retry-after": str(int(getattr(error, "retry_after_s", None) or 2))} if passing else None
    body = {"type": "about:blank", "title": title, "status": status, "detail": str(error)}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


PROBLEMS = {TransientError: problem, FatalError: problem}
