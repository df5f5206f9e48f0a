"""What a receiver is told of one alarm event: CloudEvents attributes with a Standard Webhooks body."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from lifeline_stream.core.model import ConditionEvent, Severity

SOURCE = "lifeline-stream"
TYPE = "city.lifeline.alarm"
COLOURS = {Severity.BLUE: "蓝", Severity.YELLOW: "黄", Severity.ORANGE: "橙", Severity.RED: "红"}
SHORT_ID = 6
"""Hex digits of an alarm's id that a person reads out."""


class Subject(NamedTuple):
    """What an alarm is about, in words."""

    channel: str
    asset: str
    asset_name: str
    county: str
    domain: str
    unit: str


class Rule(NamedTuple):
    """What the detector's author wrote."""

    class_: str
    why: str
    source: str
    action: str


def alarm_body(event: ConditionEvent, subject: Subject, rule: Rule) -> bytes:
    """JSON of one event, the same bytes each time."""
    at = _rfc3339(event.at_us)
    severity = Severity(event.severity)
    data = {
        "alarm_id": event.alarm_id,
        "short_id": event.alarm_id[:SHORT_ID],
        "event": event.kind.value,
        "severity": event.severity,
        "severity_name": severity.name.lower(),
        "colour": COLOURS[severity],
        "class": rule.class_,
        **subject._asdict(),
        "detector": event.detector,
        "value": _finite(event.value),
        "limit": _finite(event.limit),
        "onset": _rfc3339(event.onset_us),
        "at": at,
        "why": rule.why,
        "source": rule.source,
        "action": rule.action,
        "found_late": event.late,
    }
    message = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": SOURCE,
        "type": f"{TYPE}.{event.kind.value}",
        "subject": event.alarm_id,
        "time": at,
        "timestamp": at,
        "datacontenttype": "application/json",
        "data": data,
    }
    return msgspec.json.encode(message)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _rfc3339(ts_us: int) -> str:
    return datetime.fromtimestamp(ts_us / 1e6, UTC).isoformat(timespec="milliseconds")
