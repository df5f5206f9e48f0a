"""Configuration of one installation: defaults < `config/lifeline.toml` < `LIFELINE__SECTION__KEY` < command line."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lifeline_stream.errors import ConfigError, Problem
from lifeline_stream.resources import find

PREFIX = "LIFELINE__"
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Base of the sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Store(Section):
    """Where readings and alarms are kept."""

    dsn: str = ""
    """PostgreSQL ≥ 15, with or without TimescaleDB; empty: the embedded server in the data directory."""

    def required_dsn(self) -> str:
        """The DSN, for a command that brings no server of its own.

        Raises:
            ConfigError: none is named.
        """
        if not self.dsn:
            text = "name a PostgreSQL here or in LIFELINE__STORE__DSN; only `lifeline demo` brings its own"
            raise ConfigError([Problem("config", "", "store.dsn", text)])
        return self.dsn


class Mqtt(Section):
    """The broker that gateways publish to."""

    host: str = "127.0.0.1"
    port: Port = 1883
    username: str = ""
    password_file: Path | None = None
    client_id: str = "lifeline"
    """Fixed: it names the persistent session that keeps readings while we are away."""
    tls_ca_file: Path | None = None


class Webhook(Section):
    """Who is told of alarms."""

    url: str = ""
    """Empty: nobody is told."""
    secret_file: Path | None = None
    classes: tuple[Literal["hazard", "device"], ...] = ("hazard",)
    allow_private: bool = False


class Http(Section):
    """Where /metrics, /healthz, /readyz and the API are served."""

    host: str = "127.0.0.1"
    port: Port = 8080


class Ingest(Section):
    """Limits of the pipeline; each is a bound on memory or on delay."""

    group_rows: PositiveInt = 20_000
    group_bytes: PositiveInt = 8 << 20
    group_within_ms: PositiveInt = 200
    window_messages: PositiveInt = 40_000
    """Messages taken and not yet acknowledged, at most; the broker sends no more than 65,535."""
    window_rows: PositiveInt = 1_000_000
    window_bytes: PositiveInt = 256 << 20
    state_every_s: PositiveFloat = 30.0
    commit_timeout_s: PositiveFloat = 30.0
    direct_after_s: PositiveFloat = 2.0
    """A commit overdue by this much sends its alarms straight from memory."""
    spool_bytes: PositiveInt = 4 << 30
    deliver_within_s: PositiveFloat = 900.0
    """An alarm whose reading is older is recorded, and delivered only if it still holds when its channel is current."""


class Log(Section):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = True


class Settings(BaseSettings):
    """All sections."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Path(".data")
    """Spool, embedded database and broker state; kept between runs."""
    store: Store = Store()
    mqtt: Mqtt = Mqtt()
    webhook: Webhook = Webhook()
    http: Http = Http()
    ingest: Ingest = Ingest()
    log: Log = Log()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings


def load_settings(path: Path | None = None) -> Settings:
    """Read the configuration file, then the environment.

    Raises:
        ConfigError: every problem of both, with file and field.
    """
    file = find("config", "lifeline.toml", path)
    if strangers := _strangers():
        raise ConfigError(strangers)
    try:
        return Settings(**tomllib.loads(file.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem(str(file), "", "", f"not TOML: {error}")]) from None
    except ValidationError as error:
        raise ConfigError(_problem(str(file), e) for e in error.errors()) from None


def _strangers() -> list[Problem]:
    """Variables of the environment that name no section."""
    sections = ", ".join(Settings.model_fields)
    return [
        Problem("environment", name, "", f"there is no such section or key; there are {sections}")
        for name in os.environ
        if name.upper().startswith(PREFIX) and name.split("__")[1].lower() not in Settings.model_fields
    ]


def _problem(file: str, error: Any) -> Problem:  # noqa: ANN401
    path = ".".join(map(str, error["loc"]))
    variable = PREFIX + "__".join(str(part).upper() for part in error["loc"])
    return Problem(file, "", path, f"{error['msg']} (here or in {variable})")


def secret_of(file: Path | None, path: str) -> str:
    """Content of a secret file, without its line end.

    Raises:
        ConfigError: it can't be read.
    """
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError([Problem(str(file), "", path, f"can't be read: {error.strerror}")]) from None
