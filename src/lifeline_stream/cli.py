"""The `lifeline` command. Results go to stdout, logs to stderr.

Exit codes: 0 done · 1 found something · 2 bad declaration or arguments · 3 an outside system refused.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lifeline_stream import __version__
from lifeline_stream.errors import ConfigError, FatalError, TransientError

app = typer.Typer(
    help="City lifelines 城市生命线 on one net: take readings, detect, grade and tell.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="The database's schema.", no_args_is_help=True)
registry = typer.Typer(help="The city's registry.", no_args_is_help=True)
fleet = typer.Typer(help="The simulated city.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(registry, name="registry")
app.add_typer(fleet, name="fleet")

FOUND, BAD_INPUT, REFUSED = 1, 2, 3

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Configuration file; default config/lifeline.toml.")]
TopologyName = Annotated[str, typer.Argument(help="A file, or the name of a shipped topology.")]


def main() -> NoReturn:
    """Run the command; turn errors into their exit codes."""
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
        sys.exit(BAD_INPUT)
    except (FatalError, TransientError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(REFUSED)
    sys.exit(0)


def run_until_signal(work: Coroutine[Any, Any, Any], stop: asyncio.Event) -> Any:  # noqa: ANN401 - what the work returns
    """Run in an event loop of its own; SIGINT and SIGTERM set `stop`."""

    async def guarded() -> Any:  # noqa: ANN401
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await work

    try:
        return asyncio.run(guarded())
    except BaseExceptionGroup as group:
        expected = group.subgroup((ConfigError, FatalError, TransientError))
        if expected is None:
            raise
        raise _first(expected) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(help="End by itself after so long.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where state is kept between runs.")] = None,
    port: Annotated[int | None, typer.Option(help="Of /metrics and the API; 0: any.")] = None,
    config: ConfigFile = None,
) -> None:
    """The whole system on a simulated city, with everything it needs, in one process.

    Example: lifeline demo --seconds 45
    """
    from lifeline_stream.demo import run_demo  # noqa: PLC0415 - each command loads only what it needs
    from lifeline_stream.settings import load_settings  # noqa: PLC0415

    stop = asyncio.Event()
    settings = load_settings(config)
    update: dict[str, Any] = {}
    if data_dir is not None:
        update["data_dir"] = data_dir
    if port is not None:
        update["http"] = settings.http.model_copy(update={"port": port})
    run_until_signal(run_demo(settings.model_copy(update=update), seconds, stop), stop)


@app.command()
def run(topology: TopologyName, config: ConfigFile = None) -> None:
    """The pipeline of one shard: take, normalise, detect, commit, acknowledge, deliver.

    A second one for the same shard is a warm standby. SIGTERM commits and acknowledges what is held, and ends.

    Example: lifeline run single
    """
    from lifeline_stream.declarations import load_topology  # noqa: PLC0415
    from lifeline_stream.observe import configure_logging  # noqa: PLC0415
    from lifeline_stream.settings import load_settings  # noqa: PLC0415
    from lifeline_stream.shard import run_shard  # noqa: PLC0415

    settings = load_settings(config)
    configure_logging(settings.log.level, json=settings.log.json_lines)
    stop = asyncio.Event()
    run_until_signal(run_shard(load_topology(topology), settings, stop), stop)


@app.command()
def check(
    paths: Annotated[list[Path] | None, typer.Argument(help="Topologies; default all shipped.")] = None,
    packs: Annotated[Path | None, typer.Option(help="Folder of packs; default the shipped ones.")] = None,
    config: ConfigFile = None,
) -> None:
    """Validate every declaration and run the packs' inline cases; show every problem.

    Example: lifeline check --packs detectors
    """
    from lifeline_stream.declarations import check_all  # noqa: PLC0415
    from lifeline_stream.resources import find  # noqa: PLC0415
    from lifeline_stream.settings import load_settings  # noqa: PLC0415

    problems = []
    try:
        load_settings(config)
    except ConfigError as error:
        problems += error.problems
    topologies = paths or sorted(find("topologies").glob("*.toml"))
    checked = check_all(find("detectors", "", packs), topologies)
    problems += checked.problems
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(
        f"{checked.n_packs} packs, {checked.n_detectors} detectors, {checked.n_cases} cases, "
        f"{checked.n_topologies} topologies, {checked.n_channels} channels: "
        + (f"{len(problems)} problems" if problems else "no problem"),
    )
    if problems:
        raise typer.Exit(BAD_INPUT)
