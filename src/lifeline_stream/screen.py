"""The demo's live terminal: a snapshot drawn with rich."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

SEVERITIES = {
    4: ("red 红", "bold white on red"),
    3: ("orange 橙", "black on dark_orange"),
    2: ("yellow 黄", "black on yellow"),
    1: ("blue 蓝", "white on blue"),
}


class DomainLine(NamedTuple):
    """One domain on the screen."""

    name: str
    n_channels: int
    n_live: int
    readings_per_s: float
    n_open: int


class AlarmLine(NamedTuple):
    """One alarm on the screen, newest first."""

    at: datetime
    severity: int
    domain: str
    asset: str
    channel: str
    what: str
    active: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the screen shows at one moment."""

    running_s: float
    broker: str
    database: str
    address: str
    readings_per_s: float
    n_stored: int
    n_rejected: int
    lag_s: float
    commit_ms: float
    uncommitted: int
    n_webhooks: int
    domains: Sequence[DomainLine] = ()
    open_by_severity: Mapping[int, int] = field(default_factory=dict)
    alarms: Sequence[AlarmLine] = ()
    webhooks: Sequence[str] = ()


def draw(s: Snapshot) -> RenderableType:
    """The whole screen."""
    return Group(_head(s), _domains(s), _alarms(s), _webhooks(s), _foot(s))


def _head(s: Snapshot) -> RenderableType:
    line = Text()
    line.append(" lifeline-stream 城市生命线 ", "bold")
    line.append(f" {s.running_s:.0f} s   ")
    line.append(f"{s.readings_per_s:,.0f} readings/s", "bold green")
    line.append(f"   stored {s.n_stored:,}   rejected {s.n_rejected:,}   lag {s.lag_s:.1f} s")
    line.append(f"   commit {s.commit_ms:.0f} ms   uncommitted {s.uncommitted:,}")
    severities = Text(" open alarms 未消警报  ")
    for severity, (name, style) in SEVERITIES.items():
        severities.append(f" {name} {s.open_by_severity.get(severity, 0)} ", style)
        severities.append(" ")
    severities.append(f"   webhooks verified 已验签推送 {s.n_webhooks}")
    return Panel(Group(line, severities), border_style="grey50")


def _domains(s: Snapshot) -> RenderableType:
    table = Table(expand=True, box=None, header_style="grey62")
    table.add_column("domain 领域")
    for name in ("channels 测点", "reporting 在线", "readings/s", "open 警报"):
        table.add_column(name, justify="right")
    for d in s.domains:
        style = "bold" if d.n_open else ""
        cells = (d.name, f"{d.n_channels:,}", f"{d.n_live:,}", f"{d.readings_per_s:,.1f}", str(d.n_open))
        table.add_row(*cells, style=style)
    return Panel(table, title="one net 一张网", title_align="left", border_style="grey50")


def _alarms(s: Snapshot) -> RenderableType:
    table = Table(expand=True, box=None, header_style="grey62")
    zone = datetime.now().astimezone().tzname()
    for name in (f"time 时间 ({zone})", "severity 等级", "domain 领域", "asset 对象", "channel 测点", "what 内容"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for a in s.alarms:
        name, style = SEVERITIES[a.severity]
        state = "" if a.active else "dim"
        what = a.what if a.active else f"{a.what} (cleared)"
        table.add_row(f"{a.at:%H:%M:%S}", Text(f" {name} ", style), a.domain, a.asset, a.channel, what, style=state)
    if not s.alarms:
        table.add_row("", "", "", "none yet: the first incident of the simulated city comes in a few seconds", "", "")
    return Panel(table, title="newest alarms 最新警报", title_align="left", border_style="grey50")


def _webhooks(s: Snapshot) -> RenderableType:
    text = Text("\n".join(s.webhooks) or "none yet", overflow="ellipsis", no_wrap=True)
    return Panel(text, title="received and verified 收到并验签", title_align="left", border_style="grey50")


def _foot(s: Snapshot) -> RenderableType:
    return Text(
        f" {s.address}/metrics   {s.address}/api/v1/alarms   broker: {s.broker}   database: {s.database}   Ctrl-C ends",
        style="grey62",
    )
