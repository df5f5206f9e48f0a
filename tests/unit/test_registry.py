"""The registry as CSV: a small city that is right, and every problem of a wrong one at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifeline_stream.city.registry import COLUMNS, load_registry, read_registry
from lifeline_stream.errors import ConfigError
from making import make_pack

PACK = make_pack(
    [
        {"id": "gas", "quantity": "gas_fraction", "unit": "%VOL", "every_s": 300},
        {"id": "level", "quantity": "length", "unit": "m"},
    ],
)
RIGHT = {
    "districts": ["city,云川市,city,", "north,北县,county,city", "south,南县,county,city"],
    "assets": [
        "main-1,一号管,x,main,north;south,燃气公司,118.8,31.9,high",
        "city-1,总站,x,station,city,燃气公司,118.8,31.9,low",
    ],
    "devices": ["D1,GW-1,main-1,RTU", "D2,GW-1,city-1,RTU"],
    "channels": ["D1/gas,D1,gas,,,", "D1/AI2,D1,x.level,AI2,mm,10", "D2/level,D2,level,,,"],
    "adjacency": ["main-1,city-1,feeds,400"],
}


def write(folder: Path, **changed: list[str]) -> Path:
    """The right city, with the given tables in place of its own."""
    for table, lines in (RIGHT | changed).items():
        header = ",".join(COLUMNS[table])
        (folder / f"{table}.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def problems(folder: Path) -> list[tuple[str, str, str]]:
    """File, id and path of each problem."""
    _, found = read_registry(folder, [PACK])
    return [(Path(problem.file).stem, problem.id, problem.path) for problem in found]


def test_a_city_is_read_in_the_order_of_its_file(tmp_path: Path) -> None:
    city = load_registry(write(tmp_path), [PACK])
    assert [(c.ix, c.id) for c in city.channels] == [(0, "D1/gas"), (1, "D1/AI2"), (2, "D2/level")]
    gas, level, _ = city.channels
    assert (gas.device, gas.gateway, gas.asset, gas.sensor, gas.domain) == ("D1", "GW-1", "main-1", "x.gas", "x")
    assert (level.code, level.unit, level.every_s) == ("AI2", "mm", 10.0)
    assert city.asset_of["main-1"].districts == ("north", "south")
    assert city.adjacency[0].distance_m == 400.0


def test_a_channel_reports_as_often_as_its_sensor_type_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert [c.every_s for c in load_registry(write(tmp_path), [PACK]).channels] == [300.0, 10.0, 60.0]


def test_a_channel_belongs_to_the_first_county_of_its_asset_or_to_the_city(tmp_path: Path) -> None:
    assert [c.county for c in load_registry(write(tmp_path), [PACK]).channels] == ["north", "north", ""]


def test_a_file_with_a_byte_order_mark_and_blank_lines_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "devices.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"D2", b"\nD2"))
    assert problems(tmp_path) == []


def test_every_problem_of_every_file_is_shown_at_once(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        districts=["city,云川市,city,", "north,北县,village,nowhere"],
        assets=["main-1,一号管,y,main,north;west,燃气公司,east,31.9,huge"],
        devices=["D1,GW/1,main-9,RTU", "D1,GW-1,main-1,RTU"],
        channels=[
            "D1/gas,D1,gas,,kPa,",
            "D1/gas,D1,gas,,,",
            "D1/b,D9,gas,,,",
            "D1/c,D1,x.smell,,,",
            "D1/d,D1,x.level,,,0",
            "D1/e,D1,x.level,AI,furlong,nan",
            "short,D1",
        ],
        adjacency=["main-1,main-7,feeds,far"],
    )
    assert sorted(problems(folder)) == sorted(
        [
            ("districts", "north", "kind"),
            ("districts", "north", "parent"),
            ("assets", "main-1", "districts"),
            ("assets", "main-1", "domain"),
            ("assets", "main-1", "risk"),
            ("assets", "main-1", "lon"),
            ("devices", "D1", "asset_id"),
            ("devices", "D1", "gateway_id"),
            ("devices", "D1", "device_id"),
            ("channels", "D1/gas", "channel_id"),
            ("channels", "D1/b", "device_id"),
            ("channels", "D1/c", "sensor"),
            ("channels", "D1/d", "every_s"),
            ("channels", "D1/e", "unit"),
            ("channels", "D1/e", "every_s"),
            ("channels", "", "line 8"),
            ("adjacency", "line 2", "to_asset"),
            ("adjacency", "line 2", "distance_m"),
        ]
    )


def test_a_foreign_unit_of_a_channel_is_a_problem(tmp_path: Path) -> None:
    folder = write(tmp_path, channels=["D1/gas,D1,gas,,kPa,"])
    (problem,) = read_registry(folder, [PACK])[1]
    assert str(problem).startswith(f"{folder}/channels.csv: D1/gas: unit: unit 'kPa' measures pressure")


def test_two_channels_of_a_device_may_not_share_a_name(tmp_path: Path) -> None:
    folder = write(tmp_path, channels=["one,D1,gas,,,", "two,D1,gas,,,", "three,D1,gas,AI3,,"])
    assert problems(folder) == [("channels", "two", "code")]


@pytest.mark.parametrize("table", COLUMNS)
def test_a_missing_file_a_wrong_header_and_wrong_bytes_are_named(tmp_path: Path, table: str) -> None:
    path = write(tmp_path) / f"{table}.csv"
    right = path.read_bytes()
    path.write_bytes(right + "甲".encode("gbk"))
    assert (table, "", "") in problems(tmp_path)
    path.write_bytes(b"a,b\n" + right)
    assert (table, "", "line 1") in problems(tmp_path)
    path.unlink()
    assert (table, "", "") in problems(tmp_path)


def test_a_program_that_needs_the_city_right_gets_every_problem(tmp_path: Path) -> None:
    folder = write(tmp_path, devices=["D1,GW-1,main-9,RTU", "D2,,city-1,RTU"])
    with pytest.raises(ConfigError) as caught:
        load_registry(folder, [PACK])
    assert [(p.id, p.path) for p in caught.value.problems] == [("D1", "asset_id"), ("D2", "gateway_id")]
