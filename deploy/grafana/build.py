"""Write the dashboards: `make grafana`. Their JSON is committed; a test holds that it equals what this builds.

The queries of the city stand in `city.sql`; those of the service, one line each, stand here.
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.builders import barchart, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    StackingMode,
    TableCellHeight,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
)

from lifeline_stream.store import sql

HERE = Path(__file__).parent
SQL = sql.parse((HERE / "city.sql").read_text(encoding="utf-8"))
POSTGRES = DataSourceRef("postgres", "lifeline-postgres")
PROMETHEUS = DataSourceRef("prometheus", "lifeline-prometheus")
COLOURS = {"蓝 blue": "#3274d9", "黄 yellow": "#f2cc0c", "橙 orange": "#ff780a", "红 red": "#e02f44"}
INSTANCE = 'instance=~"$instance"'
TAGS = ["lifeline-stream", "城市生命线"]

Panel = stat.Panel | barchart.Panel | table.Panel | timeseries.Panel


class SqlQuery(Dataquery):
    """A statement for Grafana's PostgreSQL data source, which the SDK has no model of."""

    def __init__(self, statement: str, format_: str) -> None:
        """Ask `statement`; `format_` is `table` or `time_series`."""
        self.statement, self.format = statement, format_

    def to_json(self) -> dict[str, object]:
        """As the data source stores it."""
        return {
            "refId": "A",
            "datasource": POSTGRES,
            "format": self.format,
            "editorMode": "code",
            "rawQuery": True,
            "rawSql": self.statement,
        }


class Asking(Builder[Dataquery]):
    """A query that is built already."""

    def __init__(self, query: Dataquery) -> None:
        """Wrap it."""
        self.query = query

    def build(self) -> Dataquery:
        """Return it."""
        return self.query


# ── the city ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_city(panel: Panel, title: str, query: str, height: int, span: int) -> Panel:
    """A panel over the views."""
    format_ = "time_series" if isinstance(panel, timeseries.Panel) else "table"
    target = Asking(SqlQuery(SQL[query], format_))
    return panel.title(title).datasource(POSTGRES).with_target(target).height(height).span(span)


def coloured(panel: Panel) -> Panel:
    """Severities in the colours that every office knows them by."""
    for name, colour in COLOURS.items():
        panel.override_by_name(name, [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})])
    return panel


def stacked_bars() -> timeseries.Panel:
    """Counts over time."""
    stacking = common.StackingConfig().mode(StackingMode.NORMAL).group("A")
    return timeseries.Panel().draw_style(GraphDrawStyle.BARS).fill_opacity(70).stacking(stacking).min(0)


def lines() -> timeseries.Panel:
    """Values over time."""
    return timeseries.Panel().line_width(1).fill_opacity(5).show_points(VisibilityMode.AUTO)


def variable(name: str, label: str) -> dashboard.QueryVariable:
    """A choice that the data offer."""
    asked = dashboard.QueryVariable(name).label(label).datasource(POSTGRES).query(SQL[f"variable_{name}"])
    return asked.refresh(VariableRefresh.ON_DASHBOARD_LOAD)


def board(title: str, uid: str, refresh: str) -> dashboard.Dashboard:
    """What both dashboards have in common."""
    made = dashboard.Dashboard(title).uid(uid).tags(TAGS).refresh(refresh).time("now-6h", "now").timezone("browser")
    return made.readonly().tooltip(DashboardCursorSync.CROSSHAIR)


def city() -> dashboard.Dashboard:
    """The city by domain and county."""
    numbers = stat.Panel().graph_mode(BigValueGraphMode.NONE).color_mode(BigValueColorMode.BACKGROUND_SOLID)
    severities = barchart.Panel().stacking(StackingMode.NORMAL).min(0)
    counties = barchart.Panel().stacking(StackingMode.NORMAL).min(0)
    alarms = table.Panel().cell_height(TableCellHeight.SM)
    share = [DynamicConfigValue("unit", "percentunit")]
    watched = table.Panel().cell_height(TableCellHeight.SM).override_by_name("在线率 share", share)
    chosen = table.Panel().cell_height(TableCellHeight.SM)
    panels = (
        of_city(coloured(numbers), "未消除告警 Open alarms by severity", "open_by_severity", 5, 24),
        of_city(coloured(severities), "各专业未消除告警 Open alarms by domain", "open_by_domain", 8, 12),
        of_city(coloured(counties), "各区县未消除告警 Open alarms by county", "open_by_county", 8, 12),
        of_city(alarms, "最新告警 Newest alarms", "newest_alarms", 10, 24),
        of_city(coloured(stacked_bars()), "新增告警 Alarms raised", "raised", 8, 12),
        of_city(watched, "在报与应报通道 Channels reporting and due", "reporting", 8, 12),
        of_city(lines().min(0), "每分钟读数 Readings and samples per minute", "readings_per_minute", 8, 12),
        of_city(stacked_bars(), "拒收读数 Rejected readings by reason", "rejects", 8, 12),
        of_city(lines(), "通道历史 History of $channel", "history", 9, 16),
        of_city(chosen, "通道告警事件 Alarm events of $channel", "history_of_alarms", 9, 8),
    )
    made = board("城市生命线 City lifelines", "lifeline-city", "30s")
    made.with_variable(variable("domain", "专业 domain").multi(True).include_all(True))  # noqa: FBT003 - the SDK's signature
    made.with_variable(variable("county", "区县 county").multi(True).include_all(True))  # noqa: FBT003 - the same
    made.with_variable(variable("channel", "通道 channel"))
    for panel in panels:
        made.with_panel(panel)
    return made


# ── the service itself ───────────────────────────────────────────────────────────────────────────────────────────────


def rate(metric: str, by: str = "") -> str:
    """Events per second."""
    return f"sum by ({by}) (rate({metric}{{{INSTANCE}}}[$__rate_interval]))"


def now(metric: str, by: str = "") -> str:
    """A gauge."""
    return f"sum by ({by}) ({metric}{{{INSTANCE}}})"


def quantiles(metric: str) -> dict[str, str]:
    """Median, 95th and 99th percentile of a histogram."""
    buckets = rate(f"{metric}_bucket", "le")
    return {f"p{q}": f"histogram_quantile(0.{q}, {buckets})" for q in (50, 95, 99)}


def of_service(title: str, unit: str, queries: dict[str, str]) -> timeseries.Panel:
    """A panel over the metrics, from queries by legend."""
    panel = lines().min(0).title(title).unit(unit).datasource(PROMETHEUS).height(8).span(8)
    for ref, (legend, expr) in zip("ABCDEF", queries.items(), strict=False):
        panel.with_target(prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(ref).datasource(PROMETHEUS))
    return panel


def readiness() -> stat.Panel:
    """Whether each instance takes readings, and which condition does not hold."""
    query = prometheus.Dataquery().expr(now("lifeline_ready", "instance, condition")).instant().ref_id("A")
    query.legend_format("{{instance}}: {{condition}}").datasource(PROMETHEUS)
    panel = stat.Panel().graph_mode(BigValueGraphMode.NONE).color_mode(BigValueColorMode.BACKGROUND_SOLID)
    steps = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    panel.thresholds(steps.steps([Threshold(None, COLOURS["红 red"]), Threshold(1.0, "green")]))
    panel.mappings([ValueMap({"0": ValueMappingResult("否 no"), "1": ValueMappingResult("是 yes")})])
    return panel.title("就绪 Ready").datasource(PROMETHEUS).with_target(query).height(5).span(24)


def taking() -> list[Panel]:
    """What comes in, and what of it is refused."""
    messages = {
        "接收 taken": rate("lifeline_messages_total"),
        "确认 acknowledged": rate("lifeline_acknowledged_messages_total"),
        "丢弃 QoS 0 shed": rate("lifeline_shed_messages_total"),
    }
    again = {
        "迟到 late": rate("lifeline_late_readings_total"),
        "重复 duplicate, {{found}}": rate("lifeline_duplicate_readings_total", "found"),
        "时钟重置 clock restarts": rate("lifeline_clock_restarts_total"),
    }
    alive = {"应报 {{domain}} due": now("lifeline_channels", "domain")}
    alive |= {"在报 {{domain}} reporting": now("lifeline_reporting_channels", "domain")}
    return [
        of_service("读数 Readings taken", "cps", {"{{domain}}": rate("lifeline_readings_total", "domain")}),
        of_service("报文 Messages", "cps", messages),
        of_service("流量 Payload", "Bps", {"字节 bytes": rate("lifeline_message_bytes_total")}),
        of_service("时延 Lag behind event time", "s", quantiles("lifeline_event_lag_seconds")),
        of_service("拒收 Rejects by reason", "cps", {"{{reason}}": rate("lifeline_rejected_readings_total", "reason")}),
        of_service("迟到与重复 Late and duplicate", "cps", again),
        of_service("通道 Channels", "short", alive),
    ]


def keeping() -> list[Panel]:
    """Detection and commit, and what waits for the database."""
    waiting = {
        "批次 groups": now("lifeline_uncommitted_groups"),
        "读数 readings": now("lifeline_uncommitted_rows"),
        "报文 messages": now("lifeline_unacknowledged_messages"),
    }
    oldest = {"{{instance}}": now("lifeline_oldest_unacknowledged_seconds", "instance")}
    replayed = {"{{instance}}": now("lifeline_replayed_groups", "instance")}
    trouble = {
        "提交失败 commit failures": rate("lifeline_commit_failures_total"),
        "重连 reconnects, {{peer}}": rate("lifeline_reconnects_total", "peer"),
        "确认过迟 stale acknowledgements": rate("lifeline_stale_acknowledgements_total"),
    }
    return [
        of_service("入库 Readings stored", "cps", {"{{domain}}": rate("lifeline_stored_readings_total", "domain")}),
        of_service("检测用时 Detection of a group", "s", quantiles("lifeline_engine_seconds")),
        of_service("提交用时 Commit of a group", "s", quantiles("lifeline_commit_seconds")),
        of_service("已提交批次 Last committed group", "none", {"{{instance}}": now("lifeline_group_seq", "instance")}),
        of_service("未提交 Not committed", "short", waiting),
        of_service("最早未确认 Oldest unacknowledged", "s", oldest),
        of_service("本地暂存 Spool", "bytes", {"{{instance}}": now("lifeline_spool_bytes", "instance")}),
        of_service("故障 Trouble", "cps", trouble),
        of_service("状态保存 Saving the engine's state", "s", quantiles("lifeline_state_save_seconds")),
        of_service("重放批次 Groups fed again at start", "short", replayed),
    ]


def telling() -> list[Panel]:
    """Alarms, and whether people are told of them."""
    events = {"{{class}} {{kind}} {{severity}}": rate("lifeline_alarm_events_total", "class, kind, severity")}
    active = {"{{domain}} {{severity}}": now("lifeline_active_alarms", "domain, severity")}
    outbox = {"到期 due": now("lifeline_outbox_due"), "暂缓 held": now("lifeline_outbox_held")}
    oldest = {"{{instance}}": now("lifeline_outbox_oldest_seconds", "instance")}
    return [
        of_service("未消除告警 Active alarms", "short", active),
        of_service("告警事件 Alarm events", "cps", events),
        of_service("推送 Deliveries by result", "cps", {"{{result}}": rate("lifeline_deliveries_total", "result")}),
        of_service("待推送 Outbox", "short", outbox),
        of_service("最早待推送 Oldest to deliver", "s", oldest),
    ]


def service() -> dashboard.Dashboard:
    """The service itself: what it takes, how long that takes it, and what waits."""
    made = board("城市生命线：服务 The service itself", "lifeline-service", "10s")
    instances = dashboard.QueryVariable("instance").label("实例 instance").datasource(PROMETHEUS)
    instances.query("label_values(lifeline_ready, instance)").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    made.with_variable(instances.multi(True).include_all(True).all_value(".+"))  # noqa: FBT003 - the SDK's signature
    for panel in (readiness(), *taking(), *keeping(), *telling()):
        made.with_panel(panel)
    return made


def built() -> dict[Path, str]:
    """The text of each file."""
    made = {"city": city(), "service": service()}
    return {HERE / "dashboards" / f"{name}.json": as_json(board) for name, board in made.items()}


def as_json(board: dashboard.Dashboard) -> str:
    """With the panels numbered: Grafana would number them anew at each load."""
    model = board.build()
    for number, panel in enumerate(model.panels or (), 1):
        panel.id_val = number
    return json.dumps(model, cls=JSONEncoder, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for path, text in built().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
