"""values.py: every Arrow type as JSON has it, exactly, or as its table says."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import struct
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.export import files
from batchgen.export.files import EXPORTS, Line
from batchgen.output.output import Output
from batchgen.read import values
from tests.support.finished import Finished

FAR, EARLY = 10413792000, -11676096000  # 2300-01-01 and 1600-01-01, in seconds
DAY = 86400


def bad_text() -> pa.Array:
    offsets = struct.pack("<3i", 0, 4, 8)
    return pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"goodR\xc9UN")])


CASES: dict[str, tuple[pa.Array, list[Any]]] = {
    "null": (pa.nulls(2), [None, None]),
    "bool": (pa.array([True, None]), [True, None]),
    "uint64": (pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
    "int64": (pa.array([-(2**63), None]), [-(2**63), None]),
    "float": (pa.array([1.5, float("nan"), float("inf"), -float("inf"), None]), [1.5, None, None, None, None]),
    "half": (pa.array([1.5, None], pa.float16()), [1.5, None]),
    "text": (pa.array(["a\0é😀", None]), ["a\0é😀", None]),
    "text that is no UTF-8": (bad_text(), ["good", "R\ufffdUN"]),
    "large text": (pa.array(["a", None], pa.large_string()), ["a", None]),
    "text view": (pa.array(["a" * 20, None], pa.string_view()), ["a" * 20, None]),
    "binary": (pa.array([b"\x89PNG\0\xff", None]), [base64.b64encode(b"\x89PNG\0\xff").decode(), None]),
    "large binary": (pa.array([b"\0"], pa.large_binary()), ["AA=="]),
    "fixed binary": (pa.array([b"ab", None], pa.binary(2)), ["YWI=", None]),
    "binary view": (pa.array([b"\0" * 20], pa.binary_view()), [base64.b64encode(b"\0" * 20).decode()]),
    "decimal": (pa.array([decimal.Decimal("1.10"), None], pa.decimal128(38, 2)), ["1.10", None]),
    "large decimal": (pa.array([decimal.Decimal("9" * 60)], pa.decimal256(76, 0)), ["9" * 60]),
    "decimal of thousands": (pa.array([decimal.Decimal("1E+3")], pa.decimal128(5, -3)), ["1000"]),
    "date32": (pa.array([0, None, 2932897, -719528], pa.date32()), ["1970-01-01", None, "10000-01-01", "0000-01-01"]),
    "date64": (pa.array([datetime.date(2020, 1, 2), None], pa.date64()), ["2020-01-02", None]),
    "timestamp s": (pa.array([FAR, EARLY, None], pa.timestamp("s")), ["2300-01-01T00:00:00", "1600-01-01T00:00:00", None]),
    "timestamp ms": (pa.array([1500], pa.timestamp("ms")), ["1970-01-01T00:00:01.5"]),
    "timestamp ns": (pa.array([1, None], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000001", None]),
    "timestamp beyond 9999": (pa.array([253402300800 * 10**6], pa.timestamp("us")), ["10000-01-01T00:00:00"]),
    "timestamp of a zone": (pa.array([0], pa.timestamp("us", "Asia/Tokyo")), ["1970-01-01T00:00:00+00:00"]),
    "timestamp of no known zone": (pa.array([0], pa.timestamp("us", "Moon/Base")), ["1970-01-01T00:00:00+00:00"]),
    "time s": (pa.array([3661, None], pa.time32("s")), ["01:01:01", None]),
    "time ms": (pa.array([1250], pa.time32("ms")), ["00:00:01.25"]),
    "time us": (pa.array([1], pa.time64("us")), ["00:00:00.000001"]),
    "time ns": (pa.array([1, None], pa.time64("ns")), ["00:00:00.000000001", None]),
    "duration s": (pa.array([90, None], pa.duration("s")), ["PT90S", None]),
    "duration ns": (pa.array([-1_500_000_001], pa.duration("ns")), ["-PT1.500000001S"]),
    "the least timestamp": (
        pa.array([-(2**63), 2**63 - 1], pa.timestamp("us")),
        [f"{-(2**63)} us", "294247-01-10T04:00:54.775807"],
    ),
    "time out of a day": (pa.array([-1, 90000], pa.time32("s")), ["-00:00:01", "25:00:00"]),
    "interval": (pa.array([pa.MonthDayNano([1, 2, 3]), None]), [[1, 2, 3], None]),
    "small decimal": (pa.array([decimal.Decimal("1.10")], pa.decimal32(5, 2)), ["1.10"]),
    "list": (pa.array([[b"a", None], None, []]), [["YQ==", None], None, []]),
    "large list": (pa.array([[1.5, float("nan")], None], pa.large_list(pa.float64())), [[1.5, None], None]),
    "list view": (pa.array([[1], None, [2, 3]], pa.list_view(pa.int64())), [[1], None, [2, 3]]),
    "fixed list": (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)), [[1, 2], None, [3, 4]]),
    "struct": (pa.array([{"a": b"x", "b": None}, None]), [{"a": "eA==", "b": None}, None]),
    "empty struct": (pa.array([{}, None], pa.struct([])), [{}, None]),
    "map": (
        pa.array([[("k", b"v"), ("k", b"w")], None, []], pa.map_(pa.string(), pa.binary())),
        [[["k", "dg=="], ["k", "dw=="]], None, []],
    ),
    "dictionary": (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "dictionary of bytes": (pa.array([b"a", b"a"]).dictionary_encode(), ["YQ==", "YQ=="]),
    "run ends": (pa.RunEndEncodedArray.from_arrays([2, 3], pa.array([b"a", None])), ["YQ==", "YQ==", None]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_type_is_written_as_its_table_says(case: str) -> None:
    array, wanted = CASES[case]
    assert values.values(array) == wanted
    assert orjson.loads(orjson.dumps(values.values(array))) == wanted


@pytest.mark.parametrize("case", CASES)
def test_a_slice_has_its_own_values_and_so_has_every_nesting(case: str) -> None:
    array, wanted = CASES[case]
    twice = pa.concat_arrays([array, array]) if "run ends" not in case else array
    assert values.values(twice.slice(1)) == (wanted + wanted if twice is not array else wanted)[1:]
    if "run ends" in case or "empty" in case:
        return
    nested = pa.StructArray.from_arrays([array], ["x"])
    assert values.values(nested) == [{"x": value} for value in wanted]
    listed = pa.ListArray.from_arrays([0, len(array), len(array)], array)
    assert values.values(listed) == [wanted, []]
    assert values.values(pa.concat_arrays([listed, listed]).slice(1)) == [[], wanted, []]


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    """An output that carries columns of types that JSON lacks."""
    columns = {
        "prompt": ["a", "b", "c"],
        "picture": pa.array([b"\x89PNG\0\xff", None, b""], pa.binary()),
        "price": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.00")], pa.decimal128(9, 2)),
        "score": pa.array([float("nan"), 0.5, float("inf")]),
        "tags": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        "nested": pa.array([{"raw": [b"\xff"], "deep": {"x": [[1], None]}}, None, {"raw": [], "deep": None}]),
        "year": pa.array([253402300800, None, -99999999999], pa.timestamp("s")),
        "length": pa.array([1, None, 3], pa.duration("us")),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", store_schema=True)
    return Finished(tmp_path, input={"path": str(tmp_path / "in.parquet"), "prompt": "prompt"})


def test_every_type_that_a_run_carries_is_exported(output: Finished, tmp_path: Path) -> None:
    files.export(output.output, EXPORTS.named("jsonl"), tmp_path / "to")
    rows = [json.loads(line) for line in (tmp_path / "to/rows.jsonl").read_text().splitlines()]
    first = [row for row in rows if row["sample"] == 0]
    assert [row["picture"] for row in first] == [base64.b64encode(b"\x89PNG\0\xff").decode(), None, ""]
    assert [row["price"] for row in first] == ["1.10", None, "-2.00"]
    assert [row["score"] for row in first] == [None, 0.5, None]
    assert [row["tags"] for row in first] == [[["a", 1]], None, []]
    assert first[0]["nested"] == {"raw": ["/w=="], "deep": {"x": [[1], None]}}
    assert [row["year"] for row in first] == ["10000-01-01T00:00:00", None, "-1199-02-15T14:13:21"]
    assert [row["length"] for row in first] == ["PT0.000001S", None, "PT0.000003S"]
    assert len(rows) == 6


def test_an_export_of_a_package_may_give_what_python_has(output: Finished, tmp_path: Path) -> None:
    def export(_: Output, line: Line) -> None:
        line("x.jsonl", {"bytes": b"\0", "price": decimal.Decimal("1.5"), "took": datetime.timedelta(seconds=1)})

    files.export(output.output, export, tmp_path / "to")
    assert json.loads((tmp_path / "to/x.jsonl").read_text()) == {"bytes": "AA==", "price": "1.5", "took": "PT1S"}
