"""Values of tables: each is carried exactly, or its row is an error that names shard, row and column."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.read import reader
from tests.support.reading import planned, read_all
from tests.support.tables import answered, write

CAP_BYTES = 3 * 2**29
"""Of a process that reads a small file whose rows stand for 32 GB."""


def bad_text() -> pa.Array:
    """Three texts of which the second is no UTF-8."""
    offsets, data = struct.pack("<4i", 0, 4, 8, 12), b"goodR\xc9UNfine"
    return pa.Array.from_buffers(pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


@pytest.mark.parametrize("shape", ["plain", "list", "struct", "carried"])
def test_invalid_text_is_the_error_of_its_row_alone(tmp_path: Path, shape: str) -> None:
    bad = bad_text()
    column = {
        "list": pa.ListArray.from_arrays([0, 1, 2, 3], bad),
        "struct": pa.StructArray.from_arrays([bad], ["x"]),
    }.get(shape, bad)
    prompt = bad if shape == "plain" else ["a", "b", "c"]
    write(tmp_path, {"id": ["i", "j", "k"], "prompt": prompt, "v": column})
    rows = answered(tmp_path, input={"id": "id"})
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert [row["id"] for row in rows] == ["i", "j", "k"]
    named = "prompt" if shape == "plain" else "v"
    assert rows[1]["error_code"] == "input"
    assert rows[1]["error_detail"] == f"{tmp_path}/in/000.parquet:2: column {named}: invalid UTF-8"
    assert rows[1]["v"] is None
    assert None not in (rows[0]["v"], rows[2]["v"])


@pytest.mark.parametrize("index", [pa.int8(), pa.int32(), pa.int64()], ids=str)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_invalid_text_in_a_dictionary_is_the_error_of_the_rows_that_have_it(
    tmp_path: Path, kind: pa.DataType, index: pa.DataType
) -> None:
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, 1, None], index), bad_text().cast(pa.binary()).cast(kind, safe=False)
    )
    days = pa.array([10**8] * 5, pa.duration("us"))
    write(tmp_path, {"prompt": list("abcde"), "v.x": days, "v": texts, "days": days}, row_group_size=2)
    rows = answered(tmp_path)
    assert [row["v"] for row in rows] == ["good", None, "fine", None, None]
    assert [row["error_code"] for row in rows] == [None, "input", None, "input", None]
    assert rows[1]["error_detail"] == f"{tmp_path}/in/000.parquet:2: column v: invalid UTF-8"
    assert {str(row["days"]) for row in rows if row["status"] == "ok"} == {"0:01:40"}


@pytest.mark.parametrize("kind", [pa.string_view(), pa.list_(pa.string_view())], ids=str)
def test_invalid_text_in_a_view_is_the_error_of_its_row(tmp_path: Path, kind: pa.DataType) -> None:
    views = pa.array([b"good", b"R\xc9UN", b"fine"], pa.binary_view()).view(pa.string_view())
    write(tmp_path, {"prompt": list("abc"), "v": views if kind == views.type else pa.ListArray.from_arrays([0, 1, 2, 3], views)})
    rows, table = read_all(tmp_path / "in")
    assert [row.error is None for row in rows] == [True, False, True]
    assert [value is None for value in table["v"].to_pylist()] == [False, True, False]


def test_a_long_row_of_lists_is_the_error_of_that_row_alone(tmp_path: Path) -> None:
    lists = [["x"], ["x" * 3000], None, []]
    maps = pa.array([None, [], [("k", "y" * 3000)], [("k", "v")]], pa.map_(pa.string(), pa.string_view()))
    first = pa.DictionaryArray.from_arrays(pa.array([None] * 4, pa.int8()), ["d" * 3000])
    write(
        tmp_path,
        {"prompt": list("abcd"), "v": lists, "m": maps, "d": first, "s": [{"x": [text]} for text in ("", "", "", "z" * 3000)]},
    )
    rows = answered(tmp_path, input={"max_row_bytes": 2000})
    assert [row["status"] for row in rows] == ["ok", "error", "error", "error"]


@pytest.mark.parametrize("shape", ["list", "struct", "map"])
def test_invalid_text_in_a_dictionary_inside_a_value_is_the_error_of_its_row(tmp_path: Path, shape: str) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array([b"\xff", b"a"]).view(pa.string()))
    made = {
        "list": pa.ListArray.from_arrays([0, 1, 2], texts),
        "struct": pa.StructArray.from_arrays([texts], ["x"]),
        "map": pa.MapArray.from_arrays([0, 1, 2], ["k", "k"], texts),
    }
    write(tmp_path, {"prompt": ["p", "q"], "v": made[shape]})
    rows = answered(tmp_path)
    assert [row["error_detail"] and row["error_detail"].partition(": ")[2] for row in rows] == ["column v: invalid UTF-8", None]
    assert rows[1]["v"] == {"list": ["a"], "struct": {"x": "a"}, "map": [("k", "a")]}[shape]


def test_invalid_text_in_a_field_that_is_never_null_is_the_error_of_its_row(tmp_path: Path) -> None:
    field = pa.field("x", pa.string(), nullable=False)
    write(tmp_path, {"prompt": ["a", "b", "c"], "v": pa.StructArray.from_arrays([bad_text()], fields=[field])})
    assert [row["v"] for row in answered(tmp_path)] == [{"x": "good"}, None, {"x": "fine"}]


def test_a_map_of_nulls_is_carried_whatever_the_span(tmp_path: Path) -> None:
    maps = pa.array([[("a", None), ("b", None)], None, [("c", None)]], pa.map_(pa.string(), pa.null()))
    write(tmp_path, {"prompt": ["a", "b", "c"], "v": maps})
    assert [row["v"] for row in answered(tmp_path, spans={"rows": 1})] == maps.to_pylist()


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    write(tmp_path, {"prompt": ["a"], "\0ordinal": [7], "\0": ["x"]})
    [row] = answered(tmp_path)
    assert (row["\0ordinal"], row["\0"], row["row"]) == (7, "x", 0)


@pytest.mark.parametrize(
    ("kind", "number"),
    [(pa.date32(), 10**8), (pa.timestamp("us", "Mars/Phobos"), 0), (pa.duration("s"), 2**62), (pa.timestamp("ms"), 2**55)],
    ids=str,
)
def test_a_value_that_python_has_no_type_for_is_carried_and_an_error_only_in_a_prompt(
    tmp_path: Path, kind: pa.DataType, number: int
) -> None:
    storage = pa.int32() if kind.bit_width == 32 else pa.int64()
    odd = pa.array([0, number, None], storage).view(kind)
    write(tmp_path, {"prompt": ["a", "b", "c"], "t": odd})
    assert pq.read_table(tmp_path / "in/000.parquet").num_rows == 3
    read, table = read_all(tmp_path / "in")
    assert [row.error for row in read] == [None] * 3
    assert table["t"].combine_chunks().equals(pq.read_table(tmp_path / "in/000.parquet")["t"].combine_chunks())
    job, columns, [shard], [span] = planned(tmp_path / "in", input={"prompt": None, "template": "{{ prompt }} {{ t }}"})
    [(_, rows, _)] = reader.read_spans(job, shard, [span], columns.kept, set())
    assert rows[1].error is not None
    assert rows[1].error.detail.startswith(f"{shard.name}:2: column t: ")


def test_times_of_96_bits_do_not_wrap_round(tmp_path: Path) -> None:
    far = pa.array([1577836800 * 10**6, 10413792000 * 10**6, -11676096000 * 10**6], pa.timestamp("us"))
    write(tmp_path, {"prompt": ["a", "b", "c"], "t": far}, use_deprecated_int96_timestamps=True)
    _, table = read_all(tmp_path / "in")
    assert table["t"].cast(pa.timestamp("us")).to_pylist() == far.to_pylist()
    assert [value.year for value in table["t"].to_pylist()] == [2020, 2300, 1600]


def test_a_time_of_96_bits_that_microseconds_cannot_hold_is_an_error_of_its_row(tmp_path: Path) -> None:
    times = pa.array([1577836800 * 10**9, 1577836800 * 10**9 + 1, None, -(10**9) - 1000, 999], pa.timestamp("ns"))
    columns = {"prompt": list("abcde"), "t": times, "u": times}
    write(tmp_path, columns, use_deprecated_int96_timestamps=True)
    rows, table = read_all(tmp_path / "in")
    assert [row.error and row.error.detail.partition("000.parquet:")[2] for row in rows] == [
        None,
        "2: column t: INT96 with nanoseconds, which are carried to the microsecond: write it as timestamp[ns]",
        None,
        None,
        "5: column t: INT96 with nanoseconds, which are carried to the microsecond: write it as timestamp[ns]",
    ]
    assert table["t"].cast(pa.int64()).to_pylist()[::3] == [1577836800 * 10**6, -(10**6) - 1]
    assert table.column_names == ["prompt", "t", "u"]


def test_a_time_of_96_bits_inside_a_struct_is_refused(tmp_path: Path) -> None:
    times = pa.StructArray.from_arrays([pa.array([1], pa.timestamp("us"))], ["at"])
    write(tmp_path, {"prompt": ["a"], "s": times}, use_deprecated_int96_timestamps=True)
    with pytest.raises(InputError, match=r"column s.at: INT96 inside another type; write it as a timestamp"):
        read_all(tmp_path / "in")


BOMB = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
from tests.support.reading import planned
from batchgen.read import reader

one = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["x" * 8_000_000], pa.large_string()))
column = one if sys.argv[2] == "dictionary" else pa.chunked_array([one])
table = pa.table({"id": [str(i) for i in range(4096)], "prompt": column})
if sys.argv[2] == "text":
    table = table.replace_schema_metadata()
pq.write_table(table, sys.argv[1] + "/in.parquet", compression="zstd", store_schema=sys.argv[2] == "dictionary")
job, columns, [shard], spans = planned(__import__("pathlib").Path(sys.argv[1]) / "in.parquet")
count = errors = 0
for _, rows, kept in reader.read_spans(job, shard, spans, columns.kept, {"prompt"}):
    count += len(rows)
    errors += sum(row.error is not None for row in rows)
with open("/proc/self/status") as status:  # ru_maxrss is that of the process that began this one, where that was larger
    print(count, errors, int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024)
"""


@pytest.mark.parametrize("stored", ["dictionary", "text"])
def test_a_small_file_of_huge_rows_takes_bounded_memory(tmp_path: Path, stored: str) -> None:
    command = [sys.executable, "-c", BOMB, str(tmp_path), stored]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    rows, errors, peak = map(int, done.stdout.split())
    assert rows == 4096
    assert 0 < errors < 4096
    assert peak < CAP_BYTES
