"""Inputs at the edges of JSON, made by hypothesis: every line is a row or an error row, its neighbours are ok, and a value is
carried as Python's own json reads it. BATCHGEN_HOSTILE says how many inputs there are; `make chaos` takes 100,000."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchgen.job.job import Job
from batchgen.jsontext import MOST_DEPTH
from batchgen.output.output import Output
from batchgen.output.store import LocalStore
from batchgen.prepare import prepare
from tests.support.finished import run_here

INPUTS = int(os.environ.get("BATCHGEN_HOSTILE", "150"))
NUMBERS = ["0", "-0", "-0.0", "1e999", "-1e999", "1e-999", "2.5", "NaN", "Infinity", "9007199254740993", "9223372036854775807"]
NUMBERS += ["9223372036854775808", "18446744073709551616", "-9223372036854775809", "123456789012345678901234567890", "9" * 4400]
TEXTS = [
    r'"\ud83d\ude00"',
    r'"\ud83d"',
    r'"\ude00\ud83d"',
    r'"\u0000"',
    '"\u2028"',
    '"\ufeff"',
    '"\x1b[31m"',
    '"\U0010ffff"',
    '""',
]
WORDS = [
    "true",
    "false",
    "null",
    "[]",
    "{}",
    '{"":{"":[]}}',
    '{"a":1,"a":2}',
    "nul",
    "[1,]",
    "01",
    "1.",
    "'x'",
    "undefined",
    "[1",
    "]",
]
KEYS = [
    "v",
    "w",
    "id",
    "row",
    "STATUS",
    "input_status",
    "sampling_",
    "response",
    "",
    " ",
    "a.b",
    "ключ",
    "\u2028",
    "messages",
    "n",
    "seed",
]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


scalars = st.one_of(
    st.sampled_from(NUMBERS + TEXTS + WORDS),
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.text().map(json.dumps),
    st.sampled_from([1, 100, MOST_DEPTH - 2, MOST_DEPTH, MOST_DEPTH + 1, 300, 1100]).map(deep),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=3).map(
            lambda items: "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=4,
)
objects = st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=3).map(
    lambda pairs: "{" + ",".join(['"prompt":"hello"', *(f"{json.dumps(key)}:{value}" for key, value in pairs)]) + "}"
)
lines = st.one_of(
    objects.map(str.encode),
    values.map(str.encode),
    objects.map(lambda text: text.encode()[:-3]),
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
    objects.map(lambda text: text.replace("hello", "\udcff").encode("utf-8", "surrogateescape")),
    st.sampled_from([b"", b"\r", b" ", b"\xef\xbb\xbf{}", b"\x00", b'{"prompt":1}', b'{"prompt":null}', b'{"prompt":"\xff"}']),
)


def read_by_python(line: bytes) -> Any:
    """The line's object as the standard library reads it; None where it has none that is text."""
    try:
        value = json.loads(line.decode())
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def same(one: Any, other: Any) -> bool:
    """Whether two values are one, NaN with itself, an integer and a float of its value too; True is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def carried(row: dict[str, Any], names: dict[str, str], as_text: set[str], column: str) -> Any:
    """The value of an input column in a row of the output, which carries it under a name of `names`."""
    extra = json.loads(row.get("input_extra") or "{}")
    if column in extra:
        return extra[column]
    value = row.get(names.get(column, column))
    return json.loads(value) if names.get(column) in as_text and value is not None else value


def run(folder: Path, shard: bytes) -> tuple[list[dict[str, Any]], dict[str, str], set[str]]:
    """The rows of an output of one shard, the names of the carried columns by the input's, and those that are JSON text."""
    (folder / "in.jsonl").write_bytes(shard)
    fields = {"input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"}, "engine": {"kind": "echo"}, "spans": {"rows": 4}}
    made = prepare(Job.parse(fields | {"output": {"path": str(folder / "out")}}))
    run_here(made, LocalStore(folder / "out"))
    output = Output.open(str(folder / "out"))
    assert output.verify().problems == []
    schema = pq.read_schema(next((folder / "out/data").iterdir()))
    notes = {field.name: field.metadata or {} for field in schema}
    names = {found[b"column"].decode(): name for name, found in notes.items() if b"column" in found}
    return list(output.rows()), names, {name for name, found in notes.items() if b"json" in found}


@pytest.mark.timeout(12 * 3600)
@settings(max_examples=INPUTS, derandomize="BATCHGEN_HOSTILE" not in os.environ, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lines, max_size=8))
def test_every_line_is_a_row_or_its_own_error_and_values_are_those_of_the_line(hostile: list[bytes]) -> None:
    fine = [json.dumps({"prompt": f"fine {number}", "v": number}).encode() for number in range(2)]
    all_lines = [fine[0], *hostile, fine[1]]
    with tempfile.TemporaryDirectory() as folder:
        rows, names, as_text = run(Path(folder), b"\n".join(all_lines) + b"\n")
    assert [row["row"] for row in rows] == [n for n, line in enumerate(all_lines) if line not in (b"", b"\r")]
    for row in rows:
        expected = read_by_python(all_lines[row["row"]])
        may_be_deep = max(map(all_lines[row["row"]].count, (b"[", b"{"))) > MOST_DEPTH / 2
        if expected is None or not isinstance(expected.get("prompt"), str) or (may_be_deep and row["status"] == "error"):
            assert (row["status"], row["error_code"]) == ("error", "input"), row
            continue
        assert row["status"] == "ok", row
        for column, value in expected.items():
            assert same(carried(row, names, as_text, column), value), (column, value, row)
