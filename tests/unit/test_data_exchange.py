"""The pages for gateway vendors and the JSON Schema say what the decoder and the registry do."""

from __future__ import annotations

import json
import re
from datetime import UTC
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from lifeline_stream.city.registry import COLUMNS, DISTRICT_KINDS, RISKS, load_registry, read_registry
from lifeline_stream.core import units
from lifeline_stream.core.model import Decoded, Quality, RejectReason
from lifeline_stream.core.normalize import MOST_REJECTS, Normalizer
from lifeline_stream.core.packs import Pack
from lifeline_stream.declarations import load_packs
from lifeline_stream.formats.json_v1 import MAX_BYTES, decode
from lifeline_stream.resources import find

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "data-exchange.md").read_text("utf-8")
REGISTRY_PAGE = (DOCS / "registry.md").read_text("utf-8")
SCHEMA = json.loads((DOCS / "json.v1.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
RECEIVED_US = 1_764_000_060_000_000
"""A minute after the readings of the examples."""


class Example(NamedTuple):
    """A JSON block of the page: who sends it, what is refused (nothing: a good one), and the message."""

    gateway: str
    device: str
    reason: str
    message: str


def examples() -> list[Any]:
    blocks = re.findall(r"^```json (\S+)/(\S+)(?: (\w+))?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [pytest.param(Example(*block), id=f"{block[2] or 'good'}-{i}") for i, block in enumerate(blocks)]


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    below = page[re.search(rf"^## {re.escape(heading)}$", page, re.MULTILINE).end() :]  # type: ignore[union-attr]
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE).group().splitlines()  # type: ignore[union-attr]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@cache
def packs() -> tuple[Pack, ...]:
    return tuple(load_packs(find("detectors")))


def normalizer() -> Normalizer:
    return Normalizer(load_registry(find("config", "demo_city"), packs()), packs())


# ── the examples ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_shows_every_form_and_every_reason_that_a_message_alone_can_have() -> None:
    found = [example.values[0] for example in examples()]
    good = [json.loads(e.message) for e in found if not e.reason]
    assert {type(message) for message in good} == {dict, list}
    assert {"channels", "t0"} <= {key for message in good if isinstance(message, dict) for key in message}
    shown = {e.reason for e in found if e.reason}
    assert shown == set(RejectReason) - {RejectReason.TOO_LARGE, RejectReason.STORE_REFUSED}
    assert PAGE.count("```json") == len(found)


@pytest.mark.parametrize("example", examples())
def test_an_example_is_taken_or_refused_as_the_page_says(example: Example) -> None:
    decoded = decode(example.message.encode())
    found = normalizer().normalize(decoded, example.gateway, example.device, RECEIVED_US)
    assert {reject.reason.value for reject in found.rejects} == ({example.reason} if example.reason else set())
    if not example.reason:
        assert len(found.batch) + len(found.blocks) > 0


@pytest.mark.parametrize("example", [e for e in examples() if not e.values[0].reason])
def test_a_good_example_fits_the_schema(example: Example) -> None:
    VALIDATOR.validate(json.loads(example.message))


@pytest.mark.parametrize("example", [e for e in examples() if e.values[0].reason in {"malformed", "empty"}])
def test_what_is_malformed_or_empty_does_not_fit_the_schema(example: Example) -> None:
    assert not VALIDATOR.is_valid(json.loads(example.message))


# ── the lists of the page ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_lists_every_reason_with_a_cause_and_a_remedy() -> None:
    rows = table(PAGE, "被拒绝 When something is refused")
    assert [row[0].strip("`") for row in rows] == [reason.value for reason in RejectReason]
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)


def test_the_page_and_the_schema_list_every_quality_by_number_and_name() -> None:
    rows = table(PAGE, "质量 Quality")
    assert {int(row[0]): row[1].strip("`") for row in rows} == {int(q): q.name.lower() for q in Quality}
    number, name = SCHEMA["$defs"]["quality"]["anyOf"]
    assert name["enum"] == [q.name.lower() for q in Quality]
    assert (number["minimum"], number["maximum"]) == (min(Quality), max(Quality))


def documented_units() -> dict[str, list[tuple[str, list[str]]]]:
    """Quantity → its units, each with its other spellings."""
    found = {}
    for quantity, cell in table(PAGE, "单位 Units"):
        parts = re.findall(r"`([^`]+)`(?: \(((?:`[^`]+` ?)+)\))?", cell)
        found[quantity] = [(unit, re.findall(r"`([^`]+)`", others)) for unit, others in parts]
    return found


def test_the_page_lists_every_unit_under_its_quantity() -> None:
    declared: dict[str, set[str]] = {}
    for name, unit in units.UNITS.items():
        declared.setdefault(unit.quantity, set()).add(name)
    assert {quantity: {unit for unit, _ in found} for quantity, found in documented_units().items()} == declared


def test_the_page_lists_every_other_spelling_of_a_unit() -> None:
    found = {unit: tuple(others) for units_ in documented_units().values() for unit, others in units_ if others}
    assert found == units._SPELLINGS
    assert all(units.parse_unit(spelling) == unit for unit, others in found.items() for spelling in others)


def test_the_page_names_the_limits_of_the_decoder() -> None:
    rows = dict(row for row in table(PAGE, "限制 Limits") if len(row) == 2)
    assert str(MAX_BYTES) in rows["一条报文 a message"]
    assert f" {MOST_REJECTS} " in rows["拒绝记录 a reject"]
    assert decode(b" " * (MAX_BYTES + 1)).rejects[0].reason is RejectReason.TOO_LARGE


@pytest.mark.parametrize("spelling", ["mPa", "mW", "mN", "mΩ"])
def test_a_small_prefix_is_not_taken_for_a_large_one(spelling: str) -> None:
    assert f"`{spelling}`" in PAGE
    with pytest.raises(units.UnknownUnit):
        units.parse_unit(spelling)


# ── what fits the schema is decoded ──────────────────────────────────────────────────────────────────────────────────

HAND_MADE = [
    {"ts": 0, "values": {"a": None}},
    {"ts": 1.5, "values": {"a": 1}, "units": {"a": None, "b": "kPa"}, "unit": "MPa", "quality": 9, "sent": None},
    {"ts": "2026-01-31T08:00:00.123456Z", "values": {"a/b": True}, "unexpected": {"deep": [1]}},
    {"channels": ["a"], "values": [1], "ts": [0], "ix": [0], "units": None, "quality": ["good"], "unit": "kPa"},
    {"channels": ["a", "b"], "values": [1, False], "ts": "2026-01-31T08:00:00-03:30", "units": "kPa", "seq": None},
    {"channel": "a", "t0": 0, "period": 0.001, "values": [1.7e308, -1], "backfill": False, "unit": ""},
    [{"ts": 0, "values": {"a": 1}}, {"channel": "a", "t0": 0, "period": 10, "values": [1]}],
]


def n_rows(decoded: Decoded) -> int:
    return len(decoded.ts_us) + len(decoded.blocks)


@pytest.mark.parametrize("message", HAND_MADE, ids=range(len(HAND_MADE)))
def test_a_message_at_the_edge_of_the_schema_is_decoded(message: object) -> None:
    VALIDATOR.validate(message)
    decoded = decode(json.dumps(message).encode())
    assert decoded.rejects == []
    assert n_rows(decoded) > 0


Strategy: TypeAlias = st.SearchStrategy[Any]


def two(of: Strategy) -> Strategy:
    return st.lists(of, min_size=2, max_size=2)


STAMP: Strategy = st.one_of(
    st.integers(-(10**15), 4 * 10**15),
    st.floats(-1e15, 1e15),
    st.datetimes(timezones=st.just(UTC)).map(lambda time: time.isoformat()),
)
VALUE: Strategy = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
NAME: Strategy = st.one_of(st.sampled_from(["ch4", "M1/ch4", "甲烷"]), st.text("ab/", min_size=1, max_size=3))
UNIT: Strategy = st.sampled_from([None, "", "kPa", "℃", "furlong"])
QUALITY: Strategy = st.one_of(st.integers(0, 9), st.sampled_from([q.name.lower() for q in Quality]))
COMMON: dict[str, Strategy] = {
    "unit": UNIT,
    "quality": QUALITY,
    "sent": st.one_of(st.none(), STAMP),
    "backfill": st.booleans(),
    "seq": st.one_of(st.none(), st.integers()),
}
FORMS: list[Strategy] = [
    st.fixed_dictionaries(
        {"ts": STAMP, "values": st.dictionaries(NAME, VALUE, min_size=1, max_size=2)},
        optional=COMMON | {"units": st.one_of(UNIT, st.dictionaries(NAME, UNIT, max_size=2))},
    ),
    st.fixed_dictionaries(
        {"channels": two(NAME), "values": two(VALUE), "ts": st.one_of(STAMP, two(STAMP))},
        optional=COMMON
        | {"ix": two(st.integers(0, 1)), "units": two(UNIT), "quality": st.one_of(QUALITY, two(QUALITY))},
    ),
    st.fixed_dictionaries(
        {"channel": NAME, "t0": STAMP, "period": st.floats(0.001, 1e7), "values": two(st.floats(-1e9, 1e9))},
        optional=COMMON,
    ),
]
DOUBTFUL: Strategy = st.one_of(
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.sampled_from(
        ["2026-01-31", "2026-01-31T08:00:00", "0000-01-01T00:00:00Z", "GOOD", "fine", "\0", True, None, {}, []]
    ),
    two(st.one_of(st.integers(-1, 10), st.floats(), st.none(), st.text(max_size=2))),
    st.dictionaries(st.text(max_size=2), st.one_of(st.floats(), st.text(max_size=2), st.none()), max_size=2),
)
"""What may stand in the place of any part."""


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A good message of any form, or one of which some parts are replaced or gone."""
    message: dict[str, Any] = dict(draw(st.one_of(FORMS)))
    for key in draw(st.lists(st.sampled_from([*message, *COMMON, "ix", "units", "t0", "channels"]), max_size=2)):
        message[key] = draw(DOUBTFUL)
        if draw(st.booleans()):
            del message[key]
    return message


def lengths_agree(message: Any) -> bool:
    """Whether the columns of a columnar message have one length, which no schema can say."""
    if isinstance(message, list):
        return all(map(lengths_agree, message))
    if "channels" not in message:
        return True
    n_names, n = len(message["channels"]), len(message["values"])
    ix = message.get("ix", range(n_names))
    columns = [message.get(key) for key in ("ts", "quality")]
    units_ = message.get("units")
    return (
        len(ix) == n
        and all(i < n_names for i in ix)
        and all(len(column) == n for column in columns if isinstance(column, list))
        and not (isinstance(units_, list) and len(units_) != n_names)
    )


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.one_of(messages(), st.lists(messages(), max_size=2)))
def test_whatever_fits_the_schema_is_decoded_without_a_reject(message: object) -> None:
    decoded = decode(json.dumps(message).encode())
    if VALIDATOR.is_valid(message) and lengths_agree(message):
        event("fits")
        assert decoded.rejects == []
        assert n_rows(decoded) > 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(FORMS))
def test_good_messages_of_every_form_fit_the_schema(message: object) -> None:
    VALIDATOR.validate(message)


GOOD_PARTS: dict[str, list[Any]] = {
    "ts": [1764000000000, "2026-01-31T08:00:00+08:00"],
    "quality": [0, "suspect"],
    "unit": [None, "kPa"],
    "sent": [None, 1764000000500],
    "backfill": [False, True],
}


@pytest.mark.parametrize("parts", [dict(zip(GOOD_PARTS, p, strict=True)) for p in product(*GOOD_PARTS.values())])
def test_all_three_forms_say_the_same_of_the_same_readings(parts: dict[str, Any]) -> None:
    single = parts | {"values": {"a": 1.5}}
    columnar = parts | {"channels": ["a"], "values": [1.5]}
    waveform = {key: part for key, part in parts.items() if key != "ts"}
    waveform |= {"t0": parts["ts"], "channel": "a", "period": 10, "values": [1.5]}
    assert all(VALIDATOR.is_valid(message) for message in (single, columnar, waveform))
    one, two, three = (decode(json.dumps(message).encode()) for message in (single, columnar, waveform))
    assert one.names == two.names == three.names == ["a"]
    assert one.units == two.units == three.units == [parts["unit"]]
    assert one.sent_us == two.sent_us == three.sent_us
    assert one.ts_us.tolist() == two.ts_us.tolist() == [three.blocks[0][1]]
    assert one.quality.tolist() == two.quality.tolist() == [three.blocks[0][4]]


# ── the registry ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", COLUMNS)
def test_the_registrys_page_explains_every_column_in_order(name: str) -> None:
    heading = re.search(rf"^## ({name}\.csv .*)$", REGISTRY_PAGE, re.MULTILINE)
    assert heading is not None
    explained = [column for row in table(REGISTRY_PAGE, heading[1]) for column in re.findall(r"`(\w+)`", row[0])]
    assert tuple(explained) == COLUMNS[name]


def test_the_registrys_page_names_the_words_that_a_column_may_hold() -> None:
    assert all(f"`{word}`" in REGISTRY_PAGE for word in (*DISTRICT_KINDS, *RISKS, *(p.domain.id for p in packs())))


def test_the_city_of_the_registrys_page_is_right(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"^```csv (\w+)\n(.*?)^```", REGISTRY_PAGE, re.MULTILINE | re.DOTALL))
    assert set(blocks) == set(COLUMNS)
    for name, text in blocks.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    catalog, problems = read_registry(tmp_path, packs())
    assert problems == []
    assert {channel.county for channel in catalog.channels} == {"linjiang", "wanghu"}
    assert next(c for c in catalog.channels if c.id == "M012/immersion").every_s == 86_400  # the type's own
