"""Shards of tables: columns of only some shards are carried; a shard that does not fit or is damaged is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.prepare import prepare
from batchgen.read import reader
from tests.support.planning import make_job
from tests.support.reading import planned, read_all
from tests.support.tables import answered, write


def test_values_of_another_type_that_python_has_none_for_are_kept_as_json(tmp_path: Path) -> None:
    zone = pa.array([0, 10**18], pa.int64()).view(pa.timestamp("us", "Mars/Phobos"))
    inner = pa.StructArray.from_arrays([zone, pa.array([b"\0", None]), pa.array([float("nan"), 1.5])], ["t", "b", "n"])
    write(tmp_path, {"prompt": ["a"] * 3, "v": [1, 2, 3]}, {"prompt": ["b"], "v": [4]}, {"prompt": ["c", "d"], "v": inner})
    rows = [row["input_extra"] for row in answered(tmp_path)]
    assert rows[:4] == [None] * 4
    assert rows[4] == '{"v": {"t": "1970-01-01T00:00:00+00:00", "b": "AA==", "n": NaN}}'
    assert rows[5] == '{"v": {"t": "33658-09-27T01:46:40+00:00", "b": null, "n": 1.5}}'


def test_two_columns_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table([["a"], [1], [2]], names=["prompt", "v", "v"]), tmp_path / "in/000.parquet")
    with pytest.raises(InputError, match=r"000\.parquet: column v is there twice"):
        answered(tmp_path)


def test_two_fields_of_one_name_are_refused_by_the_name_of_the_column(tmp_path: Path) -> None:
    twins = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])
    write(tmp_path, {"prompt": ["a"], "v": pa.ListArray.from_arrays([0, 1], twins)})
    with pytest.raises(InputError, match=r"000\.parquet: column v: two fields of one name"):
        answered(tmp_path)


@pytest.mark.parametrize("shape", [lambda field: pa.struct([field]), pa.list_, lambda field: pa.map_(pa.int8(), field)])
def test_fields_that_are_never_null_are_null_where_a_shard_lacks_the_column(tmp_path: Path, shape: Any) -> None:
    kind = shape(pa.field("x", pa.struct([pa.field("y", pa.int8(), nullable=False)]), nullable=False))
    write(tmp_path, {"prompt": ["a"], "v": pa.array([None], kind)}, {"prompt": ["b"]})
    assert [(row["status"], row["v"]) for row in answered(tmp_path)] == [("ok", None)] * 2


def test_what_only_some_shards_have_is_carried_and_a_value_of_another_type_is_kept_as_it_is(tmp_path: Path) -> None:
    shards = [{"prompt": [f"p{number}"], "zip": [number], "small": pa.array([number], pa.int8())} for number in range(40)]
    shards[5] = {"prompt": ["p5"], "zip": ["00123"], "gold": ["only here"], "small": pa.array([70_000], pa.int32())}
    write(tmp_path, *shards)
    rows = answered(tmp_path)
    assert [row["zip"] for row in rows] == [*range(5), None, *range(6, 40)]
    assert rows[5]["input_extra"] == '{"zip": "00123"}'
    assert [row["input_extra"] for row in rows if row["prompt"] != "p5"] == [None] * 39
    assert [row["gold"] for row in rows] == [None] * 5 + ["only here"] + [None] * 34
    assert [row["small"] for row in rows] == [*range(5), 70_000, *range(6, 40)]


def test_fields_of_structs_are_those_of_all_shards(tmp_path: Path) -> None:
    write(
        tmp_path, {"prompt": ["a"], "s": [{"x": 1}]}, {"prompt": ["b"], "s": [{"y": "z", "x": 2}]}, {"prompt": ["c"], "s": [None]}
    )
    assert [row["s"] for row in answered(tmp_path)] == [{"x": 1, "y": None}, {"x": 2, "y": "z"}, None]


def test_a_new_shard_that_an_output_cannot_carry_is_refused_by_name_before_anything_runs(tmp_path: Path) -> None:
    write(tmp_path, {"prompt": ["a"], "n": [1]})
    job = make_job(tmp_path / "in")
    made = prepare(job)
    for columns, cause in (
        ({"n": ["x"]}, "type string is not the int64"),
        ({"n": [1], "m": [2]}, "it is not a column of this output"),
    ):
        pq.write_table(pa.table({"prompt": ["b"], **columns}), tmp_path / "in/001.parquet")
        with pytest.raises(InputError, match=rf"shard .*001\.parquet: column [nm]: {cause}"):
            prepare(job).columns.refuse_unfit(job.input, made.columns.kept)


def test_a_shard_that_is_replaced_after_it_was_planned_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"prompt": ["a", "b"]})
    job, columns, [shard], spans = planned(tmp_path / "in")
    pq.write_table(pa.table({"prompt": ["a", "B"]}), tmp_path / "in/000.parquet")
    with pytest.raises(InputError, match="it is not what was planned: it changed"):
        list(reader.read_spans(job, shard, spans, columns.kept, {"prompt"}))


def test_a_page_that_is_not_what_its_checksum_says_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"prompt": ["a", "b MARK b", "c"]}, write_page_checksum=True, compression="none", use_dictionary=False)
    path = tmp_path / "in/000.parquet"
    path.write_bytes(path.read_bytes().replace(b"MARK", b"mark"))
    with pytest.raises(InputError, match=r"000\.parquet: damaged Parquet: .*checksum"):
        read_all(tmp_path / "in")


def test_columns_that_nobody_needs_are_not_read(tmp_path: Path) -> None:
    data = "x" * 1000
    write(tmp_path, {"prompt": ["a"], "unused": [data]}, write_page_checksum=True, compression="none", use_dictionary=False)
    path = tmp_path / "in/000.parquet"
    path.write_bytes(path.read_bytes().replace(b"x" * 999, b"y" * 999, 1))
    rows, table = read_all(tmp_path / "in", input={"keep": ["prompt"]})
    assert (rows[0].error, table.to_pylist()) == (None, [{"prompt": "a"}])
