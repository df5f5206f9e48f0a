"""The core is pure, the source names no domain, and a seventh domain needs TOML and CSV alone."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import lifeline_stream
from lifeline_stream.city.registry import load_registry
from lifeline_stream.core.detection import Detection
from lifeline_stream.core.plan import compile_plan
from lifeline_stream.declarations import check_all, load_packs
from lifeline_stream.formats import FORMATS
from lifeline_stream.resources import find
from lifeline_stream.shard import Rulebook

SOURCE = Path(lifeline_stream.__file__).parent
CORE = sorted((SOURCE / "core").rglob("*.py"))
IMPURE = {"asyncio", "datetime", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "signal", "socket"}
IMPURE |= {"subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "concurrent"}
FOREIGN = {"numba", "numpy", "pydantic", "scipy"}
"""Libraries that the core may use."""
T0_MS = 1_764_000_000_000


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "__import__":
            yield "importlib"


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_imports_nothing_impure_and_nothing_above_it(path: Path) -> None:
    for module in imported(path):
        top = module.partition(".")[0]
        assert top not in IMPURE | {"importlib", "builtins", "ctypes"}, module
        if top == "lifeline_stream":
            assert module.startswith("lifeline_stream.core"), module


def test_the_core_uses_few_foreign_libraries() -> None:
    tops = {module.partition(".")[0] for path in CORE for module in imported(path)}
    standard = {
        "__future__",
        "collections",
        "dataclasses",
        "enum",
        "hashlib",
        "io",
        "itertools",
        "json",
        "types",
        "typing",
    }
    assert tops <= FOREIGN | standard | {"typing", "lifeline_stream"}


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_draws_no_random_number_and_opens_no_file(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not attributes & {"random", "default_rng", "now", "utcnow", "today"}
    assert not called & {"open", "input", "print", "exec", "eval"}


# ── no domain in the source ──────────────────────────────────────────────────────────────────────────────────────────


def words() -> set[str]:
    """Ids of domains, and of sensor types that are more than everyday words."""
    packs = load_packs(find("detectors"))
    everyday = {
        "level",
        "flow",
        "temperature",
        "pressure",
        "velocity",
        "acceleration",
        "displacement",
        "strain",
        "heat",
    }
    everyday |= {"conductivity", "humidity", "turbidity", "ph", "tilt", "smoke"}
    return {p.domain.id for p in packs} | {s.id for p in packs for s in p.sensor} - everyday


def named_in(path: Path) -> set[str]:
    """Names and texts of a file's code, without its comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            found |= set(re.split(r"[^A-Za-z0-9_]+", node.value))
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.keyword):
            found.add(node.arg or "")
    return found | set(chain.from_iterable(name.split("_") for name in found))


OWN_MEANING = {"gas": "core/units.py", "rainfall": "core/units.py"}
"""A word that means something else in one file: %LEL and ppm are units of any gas, and rainfall is a quantity."""


def test_the_source_names_no_domain() -> None:
    known = words()
    assert {"gas", "drainage", "methane", "tunnel"} <= known
    files = [path for path in SOURCE.rglob("*.py") if "fleet" not in path.parts]
    assert len(files) > 40
    named = {relative(path): named_in(path) & known for path in files}
    found = {(word, file) for file, mine in named.items() for word in mine}
    assert found == set(OWN_MEANING.items())


def test_the_queries_name_no_domain() -> None:
    for path in SOURCE.rglob("*.sql"):
        statements = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
        assert set(re.split(r"[^A-Za-z0-9]+", statements)) & words() == set(), path


# ── a seventh domain ─────────────────────────────────────────────────────────────────────────────────────────────────

PACK = """
[domain]
id = "elevator"
name = "电梯"
name_en = "Elevators"

[[sensor]]
id = "door_gap"
name = "门缝"
quantity = "length"
unit = "mm"
plausible = [0.0, 500.0]
every_s = 10
aliases = ["gap", "门缝"]

[[detector]]
id = "elevator.door_gap.wide"
kind = "threshold"
sensor = "door_gap"
above = { orange = 30.0 }
clear_below = 20.0
why = "A gap wider than a hand."
source = "engineering judgement: a test"
action = "Stop the car."

[[case]]
name = "a wide gap is orange"
detector = "elevator.door_gap.wide"
every_s = 10
signal = [ { for_s = 60, value = 5.0 }, { for_s = 10, value = 31.0 } ]
expect = [ { severity = "orange" } ]
"""
CITY = {
    "districts": "district_id,name,kind,parent\ncity,云川市,city,\neast,东区,county,city\n",
    "assets": "asset_id,name,domain,kind,districts,owner,lon,lat,risk\n"
    "lift-1,一号梯,elevator,car,east,物业公司,118.8,31.9,high\n",
    "devices": "device_id,gateway_id,asset_id,model\nL1,GW-L,lift-1,CAM\n",
    "channels": "channel_id,device_id,sensor,code,unit,every_s\nL1/door_gap,L1,door_gap,,,\n",
    "adjacency": "from_asset,to_asset,relation,distance_m\n",
}
TOPOLOGY = """
shard = "lifts"
registry = "{city}"
packs = "{packs}"
source = {{ kind = "mqtt" }}
"""


def test_a_seventh_domain_by_toml_and_csv_alone_reaches_the_alarm_s_body(tmp_path: Path) -> None:
    packs_folder, city_folder = tmp_path / "packs", tmp_path / "city"
    packs_folder.mkdir()
    city_folder.mkdir()
    (packs_folder / "elevator.toml").write_text(PACK, encoding="utf-8")
    for table, text in CITY.items():
        (city_folder / f"{table}.csv").write_text(text, encoding="utf-8")
    topology = tmp_path / "lifts.toml"
    topology.write_text(TOPOLOGY.format(city=city_folder, packs=packs_folder), encoding="utf-8")

    checked = check_all(packs_folder, [topology])
    assert (checked.problems, checked.n_cases, checked.n_channels) == ((), 1, 1)

    packs = load_packs(packs_folder)
    detection = Detection(compile_plan(load_registry(city_folder, packs), packs), "received")
    payload = {"ts": T0_MS, "values": {"门缝": 3.5}, "unit": "cm"}
    decoded = FORMATS["json.v1"](json.dumps(payload, ensure_ascii=False).encode())
    found = detection.normalizer.normalize(decoded, "GW-L", "L1", T0_MS * 1000)
    assert (found.batch.value.tolist(), found.rejects) == ([35.0], [])
    (event,), _ = detection.step(found.batch, T0_MS * 1000, -1)

    rules = Rulebook(packs, ["hazard"], 900.0)
    rules.use(detection.plan)
    told = rules.tell(event, T0_MS * 1000)
    assert told is not None
    data = json.loads(told.body)["data"]
    assert {key: data[key] for key in ("domain", "asset_name", "county", "channel", "detector", "unit", "colour")} == {
        "domain": "elevator",
        "asset_name": "一号梯",
        "county": "east",
        "channel": "L1/door_gap",
        "detector": "elevator.door_gap.wide",
        "unit": "mm",
        "colour": "橙",
    }
    assert (data["value"], data["limit"], data["action"]) == (35.0, 30.0, "Stop the car.")
