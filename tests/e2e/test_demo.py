"""`lifeline demo` as a newcomer runs it, and again on what it left."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifeline_stream import demo
from lifeline_stream.settings import Http, Settings
from lifeline_stream.sources import broker


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's own folder: run as root, the embedded server is another user, who must get there."""
    with tempfile.TemporaryDirectory(prefix="lifeline-demo-") as name:
        yield Path(name)


LIFELINE = Path(sys.executable).with_name("lifeline")
DOMAINS = {"gas", "drainage", "bridge", "heating", "water", "tunnel"}
COUNTS = ("published", "stored", "rejected", "alarms_raised", "alarms_open", "webhooks_verified")
DEADLINE_S = 120


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [LIFELINE, "demo", "--data-dir", folder, "--port", "0", *options]
    return subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_running(process: subprocess.Popen[str]) -> None:
    """Read what it says until readings are stored."""
    assert process.stderr is not None
    for line in process.stderr:
        if "running" in line and "stored=" in line and "stored=0" not in line:
            return
    raise AssertionError("it ended before it stored anything")


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def check(summary: dict[str, Any]) -> None:
    """Nothing is lost, and the numbers of the domains are those of the city."""
    assert set(summary["by_domain"]) == DOMAINS
    for name in COUNTS:
        assert summary[name] == sum(of[name] for of in summary["by_domain"].values()), name
    assert summary["published"] == summary["stored"] + summary["rejected"]
    assert all(of["stored"] > 0 for of in summary["by_domain"].values())


def test_a_demo_ends_by_itself_with_nothing_lost_and_an_incident_told_twice_on_the_same_data(folder: Path) -> None:
    first = summary_of(start(folder / "data", "--seconds", "25"))
    check(first)
    assert first["alarms_raised"] >= 1
    assert first["webhooks_verified"] >= 1
    again = summary_of(start(folder / "data", "--seconds", "25"))
    check(again)
    assert again["webhooks_verified"] >= 1


def test_ctrl_c_drains_and_stops_cleanly(folder: Path) -> None:
    process = start(folder / "data")
    until_running(process)
    process.send_signal(signal.SIGINT)
    check(summary_of(process))


def broker_of(folder: Path) -> int:
    """Process id of the demo's broker."""
    return int((folder / "data" / "broker" / "pid").read_text(encoding="utf-8").split()[1])


def test_after_a_kill_the_next_demo_goes_on_and_beside_a_living_one_it_does_not_start(folder: Path) -> None:
    killed = start(folder / "data")
    until_running(killed)
    beside = start(folder / "data", "--seconds", "5")
    _, errors = beside.communicate(timeout=DEADLINE_S)
    assert beside.returncode == 3
    assert f"process {killed.pid} runs a broker" in errors
    orphan = broker_of(folder)
    killed.kill()
    killed.communicate(timeout=DEADLINE_S)
    after = summary_of(start(folder / "data", "--seconds", "10"))
    assert after["stored"] + after["rejected"] >= after["published"], "and what the killed one had not acknowledged"
    assert not Path(f"/proc/{orphan}").exists()


async def test_without_a_mosquitto_the_demo_brings_its_own_broker(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(broker.shutil, "which", lambda *_, **__: None)
    settings = Settings(data_dir=folder / "data", http=Http(port=0))
    async with asyncio.timeout(DEADLINE_S):
        await demo.run_demo(settings, 8.0, asyncio.Event())
    check(json.loads(capsys.readouterr().out.splitlines()[-1]))
