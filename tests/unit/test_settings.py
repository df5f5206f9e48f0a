"""Configuration: defaults < file < environment, and what is said of a mistake in either."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifeline_stream.errors import ConfigError
from lifeline_stream.settings import load_settings, secret_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lifeline.toml"
    path.write_text('[mqtt]\nhost = "broker.example"\nport = 1884\n', encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    return [str(problem) for problem in raised.value.problems]


def test_the_file_wins_over_defaults_and_the_environment_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFELINE__MQTT__PORT", "2883")
    monkeypatch.setenv("LIFELINE__WEBHOOK__CLASSES", '["hazard", "device"]')
    settings = load_settings(file)
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.client_id) == ("broker.example", 2883, "lifeline")
    assert settings.webhook.classes == ("hazard", "device")


def test_every_mistake_is_named_with_its_file_field_and_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[mqtt]\nhots = "x"\n[http]\nport = 70000\n', encoding="utf-8")
    monkeypatch.setenv("LIFELINE__INGEST__GROUP_ROWS", "-1")
    found = problems(file)
    assert [p.split(": ")[1] for p in found] == ["http.port", "ingest.group_rows", "mqtt.hots"]
    assert all(p.startswith(str(file)) for p in found)
    assert "LIFELINE__INGEST__GROUP_ROWS" in found[1]


def test_a_variable_that_names_no_section_is_a_mistake(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE__STOER__DSN", "postgresql:///x")
    (found,) = problems(file)
    assert found.startswith("environment: LIFELINE__STOER__DSN")


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[mqtt", encoding="utf-8")
    assert "not TOML" in problems(broken)[0]
    assert "no such file" in problems(tmp_path / "missing.toml")[0]


def test_a_secret_is_read_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n", encoding="utf-8")
    assert secret_of(secret, "mqtt.password_file") == "hush"
    assert secret_of(None, "mqtt.password_file") == ""
    with pytest.raises(ConfigError, match=r"mqtt\.password_file: can't be read"):
        secret_of(tmp_path / "none", "mqtt.password_file")
