"""The `lifeline` command. Results go to stdout, logs to stderr.

Exit codes: 0 done · 1 found something · 2 bad declaration or arguments · 3 an outside system refused.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

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
T = TypeVar("T")

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
    """Run in an event loop of its own; SIGINT, SIGTERM and, but under nohup, the end of the terminal set `stop`."""

    async def guarded() -> Any:  # noqa: ANN401
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
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
    from lifeline_stream.run import run_service  # noqa: PLC0415

    settings = _settings(config)
    stop = asyncio.Event()
    run_until_signal(run_service(load_topology(topology), settings, stop), stop)


@app.command()
def serve(config: ConfigFile = None) -> None:
    """The API; it reads the database and never touches readings.

    Example: lifeline serve --config /etc/lifeline.toml
    """
    from lifeline_stream.service.api.app import serve_api  # noqa: PLC0415

    stop = asyncio.Event()
    run_until_signal(serve_api(_settings(config), stop), stop)


def _settings(config: Path | None) -> Any:  # noqa: ANN401 - loaded late, like all modules here
    from lifeline_stream.observe import configure_logging  # noqa: PLC0415
    from lifeline_stream.settings import load_settings  # noqa: PLC0415

    settings = load_settings(config)
    configure_logging(settings.log.level, json=settings.log.json_lines)
    return settings


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


@app.command()
def replay(  # noqa: PLR0913, PLR0917 - its options are an interface that others rely on
    traces: Annotated[list[Path], typer.Argument(help="CSV or Parquet, long (ts,channel,value[,quality]) or wide.")],
    assign: Annotated[
        list[str] | None,
        typer.Option("--as", help="GLOB=DOMAIN.SENSOR_TYPE[@UNIT] gives columns a sensor type; may be repeated."),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Samples per second, instead of the times of the trace.")] = None,
    timezone: Annotated[str, typer.Option(help="Of times without a zone.")] = "UTC",
    packs: Annotated[Path | None, typer.Option(help="Folder of packs; default the shipped ones.")] = None,
    registry_dir: Annotated[
        Path | None, typer.Option("--registry", help="City whose channels the trace holds.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Alarm events as JSON Lines; default stdout.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Parquet: channel, ts, value, score (worst open grade ÷ 4), alarm.")
    ] = None,
) -> None:
    """A recorded trace through the same engine at full speed.

    Example: lifeline replay scada.parquet --as 'P_*=water.pressure@mH2O' --as 'FLOW_*=water.flow' --out alarms.jsonl
    """
    from lifeline_stream.declarations import load_packs  # noqa: PLC0415
    from lifeline_stream.replay import parse_assignment  # noqa: PLC0415
    from lifeline_stream.replay import replay as run_replay  # noqa: PLC0415
    from lifeline_stream.resources import find  # noqa: PLC0415

    loaded = load_packs(find("detectors", "", packs))
    assignments = [parse_assignment(text) for text in assign or ()]
    done = run_replay(
        traces, assignments, loaded, registry=registry_dir, timezone=timezone, rate_hz=rate, out=out, scores=scores
    )  # fmt: skip
    typer.echo(
        f"{done.n_readings} readings of {done.n_channels} channels, {done.n_unwatched} of them without a sensor type; "
        f"{done.n_implausible} readings outside their plausible range, {done.n_repeated} at a time that their channel "
        f"had already; {done.n_events} alarm events",
        err=True,
    )
    for name, why in done.left_out.items():
        typer.echo(f"left out, as it holds no numbers: {name}: {why}", err=True)
    if done.n_readings and done.n_implausible > done.n_readings // 2:
        typer.echo("most readings are implausible: is the unit right? Say it as --as 'GLOB=DOMAIN.TYPE@UNIT'", err=True)


@app.command()
def doctor(config: ConfigFile = None) -> None:
    """Reach and versions of everything outside: database, broker, webhook.

    Example: lifeline doctor
    """
    from lifeline_stream.service.doctor import examine  # noqa: PLC0415
    from lifeline_stream.settings import load_settings  # noqa: PLC0415

    findings = asyncio.run(examine(load_settings(config)))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.text}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(REFUSED)


@app.command(hidden=True)
def warm() -> None:
    """Compile the kernels into their cache, so that the first start is quick."""
    from lifeline_stream.core.warm import compile_kernels  # noqa: PLC0415

    compile_kernels()


@db.command("upgrade")
def db_upgrade(config: ConfigFile = None) -> None:
    """Bring the schema up to date; with TimescaleDB where the server has it.

    Example: LIFELINE__STORE__DSN=postgresql://lifeline@db/lifeline lifeline db upgrade
    """
    from lifeline_stream.store import migrations  # noqa: PLC0415

    applied = asyncio.run(_with_database(config, migrations.upgrade))
    for name in applied:
        typer.echo(name)
    typer.echo(f"{len(applied)} migrations applied" if applied else "up to date")


@db.command("status")
def db_status(config: ConfigFile = None) -> None:
    """List the migrations that are missing; exit 1 when there are any.

    Example: lifeline db status
    """
    from lifeline_stream.store import migrations  # noqa: PLC0415

    missing = asyncio.run(_with_database(config, migrations.pending))
    for name in missing:
        typer.echo(name)
    if missing:
        raise typer.Exit(FOUND)
    typer.echo("up to date")


async def _with_database(config: Path | None, work: Callable[[Any], Awaitable[T]]) -> T:
    from lifeline_stream.store.database import connected  # noqa: PLC0415

    async with connected(_settings(config).store.required_dsn()) as connection:
        return await work(connection)


@registry.command("check")
def registry_check(
    folder: Annotated[Path, typer.Argument(help="Holds districts, assets, devices, channels, adjacency .csv.")],
    packs: Annotated[Path | None, typer.Option(help="Folder of packs; default the shipped ones.")] = None,
) -> None:
    """Show every problem of a city's CSV files.

    Example: lifeline registry check config/demo_city
    """
    from lifeline_stream.city.registry import read_registry  # noqa: PLC0415
    from lifeline_stream.declarations import load_packs  # noqa: PLC0415
    from lifeline_stream.resources import find  # noqa: PLC0415

    catalog, problems = read_registry(folder, load_packs(find("detectors", "", packs)))
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(f"{len(catalog.assets)} assets, {len(catalog.channels)} channels: {len(problems) or 'no'} problem(s)")
    if problems:
        raise typer.Exit(BAD_INPUT)


@registry.command("discover")
def registry_discover(config: ConfigFile = None) -> None:
    """List names that gateways sent and the registry does not know, ready to be adopted.

    Example: lifeline registry discover
    """
    from lifeline_stream.store.queries import unknown_channels  # noqa: PLC0415

    found = asyncio.run(_with_database(config, unknown_channels))
    for row in found:
        typer.echo(f"{row.source}\t{row.detail}\t{row.n_readings} readings\tlast {row.last_at:%Y-%m-%d %H:%M:%S}")
    typer.echo(f"{len(found)} unknown names")


@fleet.command("run")
def fleet_run(
    topology: TopologyName,
    seconds: Annotated[float | None, typer.Option(help="End by itself after so long.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Where the ground truth goes, JSON Lines.")] = None,
    config: ConfigFile = None,
) -> None:
    """Publish the simulated city to the broker of the configuration, with its ground truth beside it.

    Example: lifeline fleet run demo --seconds 60 --truth truth.jsonl
    """
    from lifeline_stream.simulate import run_fleet  # noqa: PLC0415

    stop = asyncio.Event()
    settings = _settings(config)
    typer.echo(run_until_signal(run_fleet(topology, settings, stop, seconds, truth), stop))


@fleet.command("record")
def fleet_record(
    topology: TopologyName,
    out: Annotated[Path, typer.Option(help="Folder for trace.parquet and truth.jsonl.")],
    hours: Annotated[float, typer.Option(help="Length of the recording.")] = 24.0,
    start: Annotated[str, typer.Option(help="First moment, RFC 3339.")] = "2026-01-05T00:00:00+08:00",
) -> None:
    """Record the simulated city without a broker, faster than real time.

    Example: lifeline fleet record demo --hours 6 --out recording
    """
    from lifeline_stream.simulate import record_fleet  # noqa: PLC0415

    typer.echo(record_fleet(topology, out, hours, start))
