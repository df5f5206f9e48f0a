"""Prometheus scrapes the real metrics with the shipped configuration; every query about the service has an answer."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CONTENT_TYPE_LATEST

from conftest import free_port, missing
from lifeline_stream.observe import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
BOARD = json.loads((DEPLOY / "grafana/dashboards/service.json").read_text())
UP_S = 60.0
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
PROMQL = [(p["title"], t["expr"]) for p in BOARD["panels"] for t in p["targets"]]
ASKED = PROMQL + [(rule["alert"], rule["expr"]) for rule in RULES]


def _metrics() -> Metrics:
    """Every metric with at least one series, as a process has it that has been through everything once."""
    metrics = Metrics()
    for value in vars(metrics).values():
        if labels := getattr(value, "_labelnames", ()):
            value.labels(*labels)
    return metrics


def _series(metrics: Metrics) -> set[str]:
    return {sample.name for family in metrics.registry.collect() for sample in family.samples}


@pytest.mark.parametrize(("title", "query"), ASKED)
def test_every_metric_that_is_asked_for_exists(title: str, query: str) -> None:
    asked = set(re.findall(r"\blifeline_\w+", query))
    assert asked or "up{" in query, title
    assert asked <= _series(_metrics())


def test_every_metric_is_on_a_dashboard() -> None:
    asked = {name for _, query in PROMQL for name in re.findall(r"\blifeline_\w+?(?=_bucket\b|\b)", query)}
    families = {family.name for family in _metrics().registry.collect()}
    shown = {name.removesuffix("_total") for name in asked}
    assert shown == families


class _Exposed(http.server.BaseHTTPRequestHandler):
    """Serves /metrics."""

    def __init__(self, metrics: Metrics, *arguments: Any) -> None:
        self._metrics = metrics
        super().__init__(*arguments)

    def do_GET(self) -> None:
        body = self._metrics.text()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus with the shipped configuration and rules that has scraped the metrics twice."""
    if shutil.which("prometheus") is None:
        missing("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Exposed, _metrics())) as exposed:
        threading.Thread(target=exposed.serve_forever, daemon=True).start()
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{exposed.server_port}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{free_port()}"
        arguments = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
        with (folder / "log").open("wb") as out:
            server = subprocess.Popen(["prometheus", *arguments, f"--web.listen-address={address}"], stderr=out)
        try:
            _until_scraped(f"http://{address}")
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait(30)
            exposed.shutdown()


def _until_scraped(address: str) -> None:
    deadline = time.monotonic() + UP_S
    while True:
        try:
            if _asked(address, "count_over_time(lifeline_messages_total[1m]) > 1"):
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "Prometheus did not scrape"
        time.sleep(0.1)


def _asked(address: str, query: str) -> list[Any]:
    arguments = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"{address}/api/v1/query?{arguments}", timeout=10) as response:  # noqa: S310 - our own server
        answer = json.load(response)
    assert answer["status"] == "success"
    result: list[Any] = answer["data"]["result"]
    return result


def test_every_panel_of_the_service_has_an_answer(prometheus: str) -> None:
    for title, query in PROMQL:
        expanded_query = query.replace("$__rate_interval", "1m").replace("$instance", ".+")
        assert "$" not in expanded_query
        assert _asked(prometheus, expanded_query), title


def test_the_rules_are_loaded_and_evaluated(prometheus: str) -> None:
    deadline = time.monotonic() + UP_S
    while True:
        with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as response:  # noqa: S310 - our own server
            (group,) = json.load(response)["data"]["groups"]
        health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in group["rules"]}
        if all(state != "unknown" for state, _ in health.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert health == {rule["alert"]: ("ok", "") for rule in RULES}


# One situation for each rule that must fire it, and the same that must not.
READY = 'lifeline_ready{job="lifeline", instance="a", condition="source connected"}'
BUCKET = 'lifeline_event_lag_seconds_bucket{job="lifeline", le="%s"}'
REJECTED = 'lifeline_rejected_readings_total{job="lifeline", reason="r"}'
SITUATIONS = {
    "LifelineNotReady": ({READY: "0x60"}, {READY: "0x60", READY.replace('"a"', '"standby"'): "1x60"}),
    "LifelineDown": ({'up{job="lifeline"}': "0x60"}, {'up{job="lifeline"}': "1x60"}),
    "LifelineSilence": (
        {READY: "1x60", 'lifeline_messages_total{job="lifeline"}': "7x60"},
        {READY: "1x60", 'lifeline_messages_total{job="lifeline"}': "7+1x60"},
    ),
    "LifelineNotCommitting": (
        {'lifeline_oldest_unacknowledged_seconds{job="lifeline"}': "61x60"},
        {'lifeline_oldest_unacknowledged_seconds{job="lifeline"}': "1x60"},
    ),
    "LifelineSpooling": (
        {'lifeline_spool_bytes{job="lifeline"}': "9x60"},
        {'lifeline_spool_bytes{job="lifeline"}': "0x60"},
    ),
    "LifelineNotTelling": (
        {'lifeline_outbox_oldest_seconds{job="lifeline"}': "121x60"},
        {'lifeline_outbox_oldest_seconds{job="lifeline"}': "3x60"},
    ),
    "LifelineBehind": (
        {BUCKET % "60": "0+1x60", BUCKET % "300": "0+9x60", BUCKET % "+Inf": "0+9x60"},
        {BUCKET % "60": "0+8x60", BUCKET % "300": "0+9x60", BUCKET % "+Inf": "0+9x60"},
    ),
    "LifelineRejecting": (
        {REJECTED: "0+6x60", 'lifeline_readings_total{job="lifeline"}': "0+99x60"},
        {REJECTED: "0+4x60", 'lifeline_readings_total{job="lifeline"}': "0+99x60"},
    ),
    "LifelineShedding": (
        {'lifeline_shed_messages_total{job="lifeline"}': "0+1x60"},
        {'lifeline_shed_messages_total{job="lifeline"}': "4x60"},
    ),
}  # fmt: skip


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        missing("promtool")
    assert set(SITUATIONS) == {rule["alert"] for rule in RULES}
    for alert, (bad, good) in SITUATIONS.items():
        assert _fires(tmp_path, alert, bad), alert
        assert not _fires(tmp_path, alert, good), alert


def _fires(folder: Path, alert: str, series: dict[str, str]) -> bool:
    """Whether promtool finds the alert firing after 50 min, where it is told to expect that it does not."""
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "50m", "alertname": alert, "exp_alerts": []}],
    }
    rules = str(PROMETHEUS / "alerts.yml")
    (folder / "test.yml").write_text(
        yaml.safe_dump({"rule_files": [rules], "evaluation_interval": "1m", "tests": [test]})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", folder / "test.yml"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return False
    assert f"alertname: {alert}" in done.stdout + done.stderr, done.stdout + done.stderr
    return True
