"""Every form of `json.v1`, and every bad message with its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lifeline_stream.core.catalog import Catalog
from lifeline_stream.core.model import BACKFILL, Decoded, Quality, RejectReason
from lifeline_stream.core.normalize import Normalizer
from lifeline_stream.formats.json_v1 import MAX_BYTES, decode
from making import T0_US, make_catalog, make_pack

T0_MS = T0_US // 1000


def sent(message: Any) -> Decoded:
    return decode(json.dumps(message, ensure_ascii=False).encode())


def rows(found: Decoded) -> list[tuple[str, str | None, int, float, int]]:
    columns = (found.name_ix.tolist(), found.ts_us.tolist(), found.value.tolist(), found.quality.tolist())
    return [(found.names[ix], found.units[ix], ts, v, q) for ix, ts, v, q in zip(*columns, strict=True)]


def refused(found: Decoded) -> list[tuple[RejectReason, str]]:
    return [(reject.reason, reject.detail) for reject in found.rejects]


# ── the forms ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_single_reading() -> None:
    found = sent({"ts": T0_MS, "values": {"ch4": 0.25, "温度": 18}})
    assert rows(found) == [("ch4", None, T0_US, 0.25, 0), ("温度", None, T0_US, 18.0, 0)]
    assert found.rejects == []


def test_a_single_reading_with_unit_quality_and_sequence() -> None:
    message = {"ts": T0_MS, "values": {"p": 3}, "unit": "bar", "quality": "suspect", "seq": 7, "sent": T0_MS + 20}
    found = sent(message)
    assert rows(found) == [("p", "bar", T0_US, 3.0, Quality.SUSPECT)]
    assert found.sent_us == T0_US + 20_000


def test_units_by_name() -> None:
    found = sent({"ts": T0_MS, "values": {"p": 3, "t": 20}, "units": {"p": "bar"}})
    assert [row[:2] for row in rows(found)] == [("p", "bar"), ("t", None)]


def test_a_list_of_readings_keeps_what_is_good() -> None:
    found = sent([{"ts": T0_MS, "values": {"a": 1}}, {"values": {"a": 2}}, 5, {"ts": T0_MS + 1, "values": {"a": 3}}])
    assert [row[2:4] for row in rows(found)] == [(T0_US, 1.0), (T0_US + 1000, 3.0)]
    assert refused(found) == [
        (RejectReason.MALFORMED, "[1].ts: None is no time; give ms since 1970 UTC"),
        (RejectReason.MALFORMED, "[2]: expected an object, found a number"),
    ]


def test_a_columnar_batch() -> None:
    message = {
        "channels": ["D1/ch4", "D2/ch4"],
        "units": ["%LEL", None],
        "ix": [0, 1, 0],
        "ts": [T0_MS, T0_MS, T0_MS + 1000],
        "values": [20, 0.5, None],
        "quality": [0, 1, 0],
    }
    assert rows(sent(message))[:2] == [("D1/ch4", "%LEL", T0_US, 20.0, 0), ("D2/ch4", None, T0_US, 0.5, 1)]
    missing = sent(message)
    assert np.isnan(missing.value[2])
    assert missing.quality[2] == Quality.MISSING


def test_a_columnar_batch_of_one_time_and_one_row_per_channel() -> None:
    found = sent({"channels": ["a", "b"], "ts": T0_MS, "values": [1, 2], "backfill": True})
    assert rows(found) == [("a", None, T0_US, 1.0, BACKFILL), ("b", None, T0_US, 2.0, BACKFILL)]


def test_a_waveform_block() -> None:
    found = sent({"channel": "acc", "t0": T0_MS, "period": 10, "values": [0.1, 0.2], "unit": "gal", "quality": 1})
    ((ix, t0_us, rate_hz, samples, quality),) = found.blocks
    assert (found.names[ix], found.units[ix], t0_us, rate_hz, quality) == ("acc", "gal", T0_US, 100.0, Quality.SUSPECT)
    assert samples.tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    "stamp",
    [T0_MS, float(T0_MS), "2025-11-24T16:00:00Z", "2025-11-25T00:00:00+08:00", "2025-11-24T16:00:00.000000+00:00"],
)
def test_a_time_is_milliseconds_or_rfc_3339_with_a_zone(stamp: float | str) -> None:
    assert rows(sent({"ts": stamp, "values": {"a": 1}})) == [("a", None, T0_US, 1.0, 0)]


def test_true_and_false_are_states() -> None:
    assert [row[3] for row in rows(sent({"ts": T0_MS, "values": {"a": True, "b": False}}))] == [1.0, 0.0]


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────────

BAD: dict[str, tuple[bytes, RejectReason, str]] = {
    "not JSON": (b"ch4=0.25", RejectReason.MALFORMED, "not JSON"),
    "cut short": (b'{"ts":1764000000000,"values":{"ch4":0.2', RejectReason.MALFORMED, "not JSON"),
    "nothing": (b"", RejectReason.MALFORMED, "not JSON"),
    "invalid UTF-8": (b'{"ts":1,"values":{"\xff":1}}', RejectReason.MALFORMED, "not UTF-8"),
    "a bare number": (b"5", RejectReason.MALFORMED, "expected an object, found a number"),
    "a text for the values": (b'{"ts":1,"values":"x"}', RejectReason.MALFORMED, "expected an object of name and value"),
    "a text for a value": (b'{"ts":1,"values":{"a":"x"}}', RejectReason.MALFORMED, "expected a number, found a text"),
    "an object for a value": (b'{"ts":1,"values":{"a":{}}}', RejectReason.MALFORMED, "found an object"),
    "no time": (b'{"values":{"a":1}}', RejectReason.MALFORMED, ".ts: None is no time"),
    "a time without zone": (b'{"ts":"2026-01-31T08:00:00","values":{"a":1}}', RejectReason.MALFORMED, "names no zone"),
    "a time that is none": (b'{"ts":"yesterday","values":{"a":1}}', RejectReason.MALFORMED, "no RFC 3339 time"),
    "an infinite time": (b'{"ts":1e400,"values":{"a":1}}', RejectReason.MALFORMED, "is no time"),
    "NaN": (b'{"ts":1,"values":{"a":NaN}}', RejectReason.NOT_FINITE, "send null for a missing value"),
    "1e400": (b'{"ts":1,"values":{"a":1e400}}', RejectReason.NOT_FINITE, "is no finite number"),
    "400 digits": (b'{"ts":1,"values":{"a":' + b"9" * 400 + b"}}", RejectReason.NOT_FINITE, "is no finite number"),
    "deep nesting": (b"[" * 100_000, RejectReason.MALFORMED, "nested deeper than 16"),
    "deep nesting that closes": (b"[" * 900 + b"]" * 900, RejectReason.MALFORMED, "a list"),
    "10 MB of nesting": (b"[" * 10_000_000, RejectReason.TOO_LARGE, f"send at most {MAX_BYTES} a message"),
    "an empty object": (b"{}", RejectReason.MALFORMED, "none of 'values', 'channels', 't0'"),
    "an empty list": (b"[]", RejectReason.EMPTY, "holds no reading"),
    "empty values": (b'{"ts":1,"values":{}}', RejectReason.EMPTY, "holds no reading"),
    "empty columns": (b'{"channels":[],"ts":[],"values":[]}', RejectReason.EMPTY, "holds no reading"),
    "an empty waveform": (b'{"channel":"a","t0":1,"period":10,"values":[]}', RejectReason.EMPTY, "holds no sample"),
    "columns of different lengths": (
        b'{"channels":["a","b"],"ts":[1,2],"values":[1,2,3]}',
        RejectReason.LENGTH_MISMATCH,
        "values 3, ix 2, ts 2",
    ),
    "fewer units than channels": (
        b'{"channels":["a","b"],"units":["m"],"ts":1,"values":[1,2]}',
        RejectReason.LENGTH_MISMATCH,
        "channels 2, units 1",
    ),
    "an index beyond the channels": (
        b'{"channels":["a"],"ix":[1],"ts":1,"values":[1]}',
        RejectReason.MALFORMED,
        "1 is no index into channels",
    ),
    "a negative index": (b'{"channels":["a"],"ix":[-1],"ts":1,"values":[1]}', RejectReason.MALFORMED, "no index"),
    "an unknown quality": (b'{"ts":1,"values":{"a":1},"quality":"fine"}', RejectReason.MALFORMED, "'fine' is none of"),
    "a quality beyond the last": (b'{"ts":1,"values":{"a":1},"quality":10}', RejectReason.MALFORMED, "10 is none of"),
    "a unit that is no text": (b'{"ts":1,"values":{"a":1},"unit":5}', RejectReason.MALFORMED, "unit 5 is no text"),
    "a channel without a name": (b'{"ts":1,"values":{"":1}}', RejectReason.MALFORMED, "'' is no channel name"),
    "NUL in a name": (b'{"ts":1,"values":{"a\\u0000":1}}', RejectReason.MALFORMED, "is no channel name"),
    "a waveform without period": (
        b'{"channel":"a","t0":1,"values":[1]}',
        RejectReason.MALFORMED,
        "sample period in ms",
    ),
    "a waveform of period 0": (b'{"channel":"a","t0":1,"period":0,"values":[1]}', RejectReason.MALFORMED, "period"),
    "a gap in a waveform": (
        b'{"channel":"a","t0":1,"period":10,"values":[1,null]}',
        RejectReason.NOT_FINITE,
        "values[1]",
    ),
    "a huge sample beside NaN": (
        b'{"channel":"a","t0":1,"period":10,"values":[1,NaN,' + b"9" * 400 + b"]}",
        RejectReason.NOT_FINITE,
        "values[1]",
    ),
    "a time of sending beyond all time": (
        b'{"channels":["a"],"ts":1,"values":[1],"sent":9223372036854775807}',
        RejectReason.MALFORMED,
        ".sent: 9223372036854775807 is no time",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_refused_with_its_reason(name: str) -> None:
    payload, reason, detail = BAD[name]
    found = decode(payload)
    assert len(found.ts_us) == 0
    assert found.blocks == []
    assert [reject.reason for reject in found.rejects] == [reason]
    assert detail in found.rejects[0].detail


def test_a_bad_value_costs_only_itself() -> None:
    found = decode(b'{"ts":1764000000000,"values":{"a":1,"b":NaN,"c":1e400,"d":"x","e":2}}')
    assert [row[0] for row in rows(found)] == ["a", "e"]
    assert [reason for reason, _ in refused(found)] == [RejectReason.NOT_FINITE] * 2 + [RejectReason.MALFORMED]


def test_a_bad_row_costs_only_itself() -> None:
    found = decode(b'{"channels":["a"],"ix":[0,0,0,7],"ts":[1,"x",3,4],"values":[1,2,null,4]}')
    assert [row[2] for row in rows(found)] == [1000, 3000]
    assert [detail.partition(":")[0] for _, detail in refused(found)] == [".ts[1]", ".ix[3]"]


def test_a_length_mismatch_counts_every_reading() -> None:
    (reject,) = decode(b'{"channels":["a"],"ts":[1,2],"values":[1,2,3]}').rejects
    assert reject.n_readings == 3


def test_the_largest_message_is_read_and_a_larger_one_is_not() -> None:
    head, tail = b'{"ts":1764000000000,"values":{"a":1},"x":"', b'"}'
    room = MAX_BYTES - len(head) - len(tail)
    assert decode(head + b"y" * room + tail).rejects == []
    assert decode(head + b"y" * (room + 1) + tail).rejects[0].reason is RejectReason.TOO_LARGE


STRANGERS = {
    "an unknown channel": ({"values": {"humidity": 1}}, RejectReason.UNKNOWN_CHANNEL),
    "a foreign unit": ({"values": {"level": 1}, "unit": "kPa"}, RejectReason.FOREIGN_UNIT),
    "a device of another gateway": ({"values": {"B1/level": 1}}, RejectReason.FOREIGN_DEVICE),
    "1970": ({"ts": 0, "values": {"level": 1}}, RejectReason.CLOCK_PAST),
    "2100": ({"ts": "2100-01-01T00:00:00Z", "values": {"level": 1}}, RejectReason.CLOCK_FUTURE),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_message_that_reads_well_may_still_be_refused(name: str) -> None:
    message, reason = STRANGERS[name]
    pack = make_pack([{"id": "level", "quantity": "length", "unit": "m"}])
    ours, theirs = make_catalog(("A1", "level"), ("B1", "level")).channels
    city = Catalog((ours, replace(theirs, gateway="OTHER")))
    found = Normalizer(city, [pack]).normalize(sent({"ts": T0_MS} | message), "GW", "A1", T0_US)
    assert len(found.batch) == 0
    assert [reject.reason for reject in found.rejects] == [reason]
