"""The decoder of `json.v1` never raises, loses no valid row, and is the same on its fast and on its slow path."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lifeline_stream.core.model import BACKFILL, Decoded, Quality
from lifeline_stream.core.normalize import Normalizer
from lifeline_stream.formats import json_v1
from making import T0_US, make_catalog, make_pack
from reference_wire import decode as slow_decode

PACK = make_pack([{"id": "a"}, {"id": "b"}])
CATALOG = make_catalog(("D", "a"), ("D", "b"))

keys = st.one_of(
    st.sampled_from(["ts", "values", "channels", "ix", "quality", "units", "unit", "t0", "period", "channel", "sent"]),
    st.sampled_from(["backfill", "seq"]),
    st.text(max_size=3),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**25), 10**25),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        [1_764_000_000_000, "2026-01-31T08:00:00+08:00", 10**400, 2**63, -(2**63), 1e308, "good", "\ud800"]
    ),
)
anything = st.recursive(
    scalars, lambda part: st.one_of(st.lists(part, max_size=4), st.dictionaries(keys, part, max_size=6)), max_leaves=12
)


def taken(payload: bytes) -> Decoded:
    """Decode, and see that what follows can take it."""
    found = json_v1.decode(payload)
    assert len(found.name_ix) == len(found.ts_us) == len(found.value) == len(found.quality)
    assert len(found.names) == len(found.units)
    assert len(found.ts_us) + len(found.blocks) + len(found.rejects) > 0
    assert not np.isinf(found.value).any()
    normalized = Normalizer(CATALOG, [PACK]).normalize(found, "GW", "D", T0_US)
    assert all(reject.detail for reject in normalized.rejects)
    return found


@settings(max_examples=300)
@given(st.binary(max_size=60))
@example(b"")
@example(b"\xff\xfe")
@example(b'{"ts":1764000000000,"values":{"a":1}')
@example(b'{"ts":1764000000000,"values":{"a":' + b"9" * 5000 + b"}}")
@example(b'{"channels":["a"],"ts":[9223372036854775807],"values":[1],"sent":-9223372036854775808}')
@example(b'{"channels":["a"],"ts":-9223372036854775808,"values":[1]}')
def test_no_bytes_make_it_raise(payload: bytes) -> None:
    taken(payload)


@settings(max_examples=400)
@given(anything)
def test_no_json_makes_it_raise(message: Any) -> None:
    taken(json.dumps(message).encode())


names = st.sampled_from(["a", "b", "D/a", "甲烷"])
values = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-1000, 1000))
stamps = st.integers(946_684_800_000, 4_102_444_800_000)
flags = st.integers(0, 9)
optional_unit = st.one_of(st.none(), st.sampled_from(["1", "kPa"]))


@st.composite
def singles(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"ts": draw(stamps), "values": draw(st.dictionaries(names, values, min_size=1))}
    for key, strategy in {"quality": flags, "unit": optional_unit, "backfill": st.booleans(), "seq": flags}.items():
        if draw(st.booleans()):
            message[key] = draw(strategy)
    return message


@st.composite
def columnars(draw: st.DrawFn) -> dict[str, Any]:
    channels = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    n = draw(st.integers(1, 6))
    ix = draw(st.lists(st.integers(0, len(channels) - 1), min_size=n, max_size=n))
    each = [draw(st.lists(strategy, min_size=n, max_size=n)) for strategy in (values, stamps, flags)]
    message = {"channels": channels, "ix": ix, "values": each[0], "ts": draw(st.sampled_from([each[1], each[1][0]]))}
    if draw(st.booleans()):
        message["units"] = [draw(optional_unit) for _ in channels]
    message["quality"] = draw(st.sampled_from([each[2], each[2][0]]))
    message["backfill"] = draw(st.booleans())
    return message


def rows(found: Decoded) -> list[tuple[str, str | None, int, str, int]]:
    """Every row with its names resolved; NaN as text, so that it equals itself."""
    columns = (found.name_ix.tolist(), found.ts_us.tolist(), found.value.tolist(), found.quality.tolist())
    return [
        (found.names[ix], found.units[ix] or None, ts, repr(float(v)), q) for ix, ts, v, q in zip(*columns, strict=True)
    ]


@settings(max_examples=200)
@given(st.one_of(singles(), columnars(), st.lists(st.one_of(singles(), columnars()), min_size=1, max_size=4)))
def test_a_valid_message_of_any_form_keeps_every_row(message: Any) -> None:
    payload = json.dumps(message).encode()
    found = taken(payload)
    assert found.rejects == []
    assert rows(found) == [(r.name, r.unit, r.ts_us, repr(r.value), r.quality) for r in slow_decode(payload)]


@settings(max_examples=200)
@given(columnars(), st.dictionaries(st.sampled_from(["ts", "ix", "quality", "values", "sent"]), scalars, max_size=1))
def test_the_fast_path_equals_the_slow_one(message: dict[str, Any], spoiled: dict[str, Any]) -> None:
    payload = json.dumps(message | spoiled).encode()
    fast, slow = json_v1.decode(payload), json_v1._slow(payload)
    assert rows(fast) == rows(slow)
    assert fast.sent_us == slow.sent_us
    assert fast.rejects == slow.rejects


@settings(max_examples=100)
@given(
    t0=stamps,
    period=st.floats(0.1, 1e5),
    samples=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20),
    quality=flags,
    backfill=st.booleans(),
)
def test_a_waveform_keeps_every_sample(
    *, t0: int, period: float, samples: list[float], quality: int, backfill: bool
) -> None:
    message = {"channel": "a", "t0": t0, "period": period, "values": samples, "quality": quality, "backfill": backfill}
    found = taken(json.dumps(message).encode())
    ((name_ix, t0_us, rate_hz, values, flag),) = found.blocks
    assert (found.names[name_ix], t0_us, values.tolist()) == ("a", t0 * 1000, samples)
    assert rate_hz == pytest.approx(1000.0 / period)
    assert flag == quality | (BACKFILL if backfill else 0)


def test_every_quality_has_its_name_and_its_number() -> None:
    for quality in Quality:
        by_name = json_v1.decode(json.dumps({"ts": 1, "values": {"a": 1}, "quality": quality.name.lower()}).encode())
        assert by_name.quality.tolist() == [quality]
