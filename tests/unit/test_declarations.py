"""`lifeline check` shows every problem of every file, with file, id and path, and exits with 2."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from typer.testing import CliRunner

from lifeline_stream.cli import app
from lifeline_stream.declarations import check_all, load_packs, load_topology, read_packs
from lifeline_stream.errors import ConfigError
from lifeline_stream.resources import find

GOOD = """
    [domain]
    id = "{domain}"
    name = "示例"
    name_en = "Example"

    [[sensor]]
    id = "level"
    name = "液位"
    quantity = "length"
    unit = "m"
    plausible = [0.0, 10.0]
    every_s = 60

    [[detector]]
    id = "{domain}.level.high"
    kind = "threshold"
    sensor = "level"
    above = {{ yellow = 1.0, red = {red} }}
    clear_below = 0.8
    why = "a test"
    source = "engineering judgement: a test"
    action = "none"

    [[case]]
    name = "rises"
    detector = "{domain}.level.high"
    every_s = 60
    signal = [ {{ for_s = 120, value = 0.1 }}, {{ for_s = 60, value = {value} }} ]
    expect = [ {{ severity = "red" }} ]
"""


def write(folder: Path, domain: str, *, red: str = "2.0", value: float = 3.0, more: str = "") -> Path:
    path = folder / f"{domain}.toml"
    path.write_text(dedent(GOOD.format(domain=domain, red=red, value=value)) + dedent(more), encoding="utf-8")
    return path


def checked(folder: Path) -> list[tuple[str, str, str]]:
    """File, id and path of each problem of the packs of a folder."""
    return [(Path(p.file).name, p.id, p.path) for p in check_all(folder, []).problems]


def test_what_is_shipped_is_right() -> None:
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 0, result.output
    assert "6 packs" in result.output
    assert "no problem" in result.output


def test_a_right_pack_has_no_problem(tmp_path: Path) -> None:
    write(tmp_path, "x")
    assert checked(tmp_path) == []


def test_every_problem_of_every_file_is_shown_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a",
        red="0.5",
        more="""
        [[sensor]]
        id = "flow"
        name = "流量"
        quantity = "pressure"
        unit = "m³/h"
        plausible = [5.0, 1.0]
        every_s = 0
        speed = 3

        [[detector]]
        id = "a.flow.fast"
        kind = "rate"
        sensor = "flow"
        mean_s = 60
        over_s = 600
        above = { red = 1.0 }
        why = "a test"
        source = "engineering judgement: a test"
        action = "none"
        """,
    )
    write(
        tmp_path,
        "b",
        more="""
        [[detector]]
        id = "c.level.flat"
        kind = "flat"
        sensor = "depth"
        after_s = 60
        severity = "blue"
        needs = { immersion = "not drowned" }
        why = "a test"
        source = "engineering judgement: a test"
        action = "none"

        [[case]]
        name = "nobody's"
        detector = "b.gone"
        every_s = 60
        signal = []
        expect = []
        """,
    )
    write(tmp_path, "c", value=1.5)
    (tmp_path / "d.toml").write_text("[domain\n", encoding="utf-8")
    (tmp_path / "e.toml").write_bytes("name = '甲'".encode("gbk"))
    assert checked(tmp_path) == [
        ("a.toml", "a.flow.fast", "detector[2]"),
        ("a.toml", "a.level.high", "detector[1]"),
        ("a.toml", "flow", "sensor[2].every_s"),
        ("a.toml", "flow", "sensor[2].speed"),
        ("b.toml", "", "case[nobody's].detector"),
        ("b.toml", "", "detector[c.level.flat].id"),
        ("b.toml", "", "detector[c.level.flat].needs"),
        ("b.toml", "", "detector[c.level.flat].sensor"),
        ("c.toml", "c.level.high", "case[rises]"),
        ("d.toml", "", ""),
        ("e.toml", "", ""),
    ]


def test_an_entry_shows_all_that_is_wrong_with_it(tmp_path: Path) -> None:
    more = """
        [[sensor]]
        id = "flow"
        name = "流量"
        quantity = "pressure"
        unit = "m³/h"
        plausible = [5.0, 1.0]
        every_s = 60
        """
    write(tmp_path, "x", more=more)
    (problem,) = check_all(tmp_path, []).problems
    assert "plausible: the lower end 5.0" in problem.text
    assert "measures volume_flow, not pressure" in problem.text


def test_a_wrong_entry_does_not_hide_the_right_ones_from_what_refers_to_them(tmp_path: Path) -> None:
    write(tmp_path, "x", red="0.5")
    packs, problems = read_packs(tmp_path)
    assert [problem.id for problem in problems] == ["x.level.high"]
    assert [sensor.id for sensor in packs[0].sensor] == ["level"]


def test_a_case_that_does_not_hold_is_a_problem_also_beside_a_broken_file(tmp_path: Path) -> None:
    write(tmp_path, "x", value=1.5)
    (tmp_path / "y.toml").write_text("=", encoding="utf-8")
    case, broken = check_all(tmp_path, []).problems
    assert case.text == "event 1: expected red, found raised severity 2 at 120 s (value 1.5)"
    assert broken.text.startswith("not TOML")


def test_a_pack_is_named_after_its_file(tmp_path: Path) -> None:
    write(tmp_path, "x").rename(tmp_path / "y.toml")
    assert ("y.toml", "x", "domain.id") in checked(tmp_path)


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert checked(tmp_path) == [(tmp_path.name, "", "")]


def test_one_name_may_not_mean_two_sensor_types(tmp_path: Path) -> None:
    more = """
        [[sensor]]
        id = "depth"
        name = "深度"
        quantity = "length"
        unit = "m"
        plausible = [0.0, 10.0]
        every_s = 60
        aliases = ["level"]
        """
    write(tmp_path, "x", more=more)
    assert checked(tmp_path) == [("x.toml", "", "sensor[depth].aliases")]


def test_check_exits_with_2_and_prints_a_line_per_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "x", red="0.5")
    result = CliRunner().invoke(app, ["check", "--packs", str(tmp_path), str(topology(tmp_path, registry="demo_city"))])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert f"{path}: x.level.high: detector[1]: above: limits must rise with severity, found [1.0, 0.5]" in lines
    assert lines[-1].endswith("problems")


def topology(folder: Path, **values: str) -> Path:
    fields = {"shard": "one", "registry": "demo_city"} | values
    lines = [f'{key} = "{value}"' for key, value in fields.items()]
    path = folder / "shape.toml.txt"
    path.write_text("\n".join([*lines, "[source]", 'kind = "mqtt"']), encoding="utf-8")
    return path


def test_a_wrong_topology_shows_every_problem(tmp_path: Path) -> None:
    packs = find("detectors")
    path = topology(tmp_path, shard="One!", registry="nowhere", clock="sun", colour="red")
    found = check_all(packs, [path]).problems
    assert [p.path for p in found] == ["clock", "colour", "shard"]
    missing = check_all(packs, [topology(tmp_path, registry="nowhere")]).problems
    assert [(p.file, p.path) for p in missing] == [(str(path), "registry")]


def test_what_can_t_be_found_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        find("detectors", "", tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"topologies/gone.toml"):
        load_topology("gone")
    with pytest.raises(ConfigError, match="limits must rise"):
        load_packs(write(tmp_path, "x", red="0.5").parent)
