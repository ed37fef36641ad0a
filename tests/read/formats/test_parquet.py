"""Parquet is read by row range; extension types and damage are refused."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.read import reader
from batchgen.read.formats.tables.parquet_file import open_parquet
from batchgen.records import Shard, Span
from tests.support.reading import NONE, hostile_column, job_of, planned, read_all


def write_parquet(path, table, **options):
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("spans", [[(0, 25)], [(3, 10), (10, 11), (11, 25)], [(7, 8)], [(23, 25)], [(0, 7), (7, 14)]])
def test_parquet_is_read_by_row_range_across_row_groups(tmp_path, spans):
    table = pa.table({"prompt": [f"p{number}" for number in range(25)], "n": list(range(25))})
    path = write_parquet(tmp_path / "in.parquet", table, row_group_size=7)
    shard = Shard(0, str(path), "parquet", 0, "", "", 25, 25)
    wanted = [Span(0, low, high, high - low) for low, high in spans]
    parts = list(reader.read_spans(job_of(), shard, wanted, pa.schema([("n", pa.int64())]), {"prompt"}))
    assert [span for span, _, _ in parts] == wanted
    for span, rows, carried_columns in parts:
        assert [(row.ordinal, row.data) for row in rows] == [(n, {"prompt": f"p{n}"}) for n in range(span.start, span.end)]
        assert carried_columns.to_pydict() == {"n": list(range(span.start, span.end))}


def test_parquet_of_more_rows_than_a_batch_is_read_in_order(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": list(range(5000))}), row_group_size=1500)
    rows, table = read_all(path, spans={"rows": 1100})
    assert [(row.ordinal, row.data["prompt"]) for row in rows] == [(n, n) for n in range(5000)]
    assert table.column("prompt").to_pylist() == list(range(5000))


def test_a_parquet_column_that_only_some_shards_have_is_null_in_the_others(tmp_path):
    write_parquet(tmp_path / "a.parquet", pa.table({"prompt": ["a"], "n": pa.array([1], pa.int32())}))
    write_parquet(tmp_path / "b.parquet", pa.table({"prompt": ["b"]}))
    job, columns, shards, spans = planned(tmp_path)
    parts = [
        table.to_pylist()
        for shard, span in zip(shards, spans, strict=True)
        for _, _, table in reader.read_spans(job, shard, [span], columns.kept, set())
    ]
    assert parts == [[{"prompt": "a", "n": 1}], [{"prompt": "b", "n": None}]]


def test_parquet_with_fewer_rows_than_planned_is_an_input_error(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": ["a", "b"]}))
    shard = Shard(0, str(path), "parquet", 0, "", "", 3, 3)
    with pytest.raises(InputError, match=r"in\.parquet: it has fewer rows than planned: it changed$"):
        list(reader.read_spans(job_of(), shard, [Span(0, 0, 3, 3)], NONE, {"prompt"}))


def test_a_dictionary_column_is_carried_as_its_values(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": pa.array(["a", "b", "a"]).dictionary_encode()}))
    rows, table = read_all(path)
    assert [row.data["prompt"] for row in rows] == table.column("prompt").to_pylist() == ["a", "b", "a"]
    assert table.schema.field("prompt").type == pa.string()


@pytest.mark.parametrize("name", ["n", "a_name_of_more_than_thirty_two_letters_in_all", "x" * 41, "=" * 33])
def test_a_parquet_file_of_plain_types_is_opened_whatever_its_names(tmp_path, name):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": ["A" * 41], name: [1]}))
    assert open_parquet(str(path))[0].schema_arrow.names == ["prompt", name]


@pytest.mark.parametrize("shape", ["plain", "struct", "list"])
@pytest.mark.parametrize("padding", range(4))
def test_an_extension_type_in_a_parquet_file_is_refused_before_it_is_interpreted(tmp_path, extension, shape, padding):
    columns = {"prompt": pa.array(["a", "b"]), "x" * (padding + 1): hostile_column(extension, shape)}
    table = pa.table(columns).replace_schema_metadata({"k" * padding: "A" * padding})
    path = write_parquet(tmp_path / "in.parquet", table)
    extension.opened = 0
    with pytest.raises(InputError, match=r"in\.parquet: it has an Arrow extension type; write the column with a plain type$"):
        open_parquet(str(path))
    assert extension.opened == 0


def damaged(path, cut):
    whole = write_parquet(path, pa.table({"prompt": [os.urandom(20).hex() for _ in range(500)]}), compression="zstd").read_bytes()
    path.write_bytes(cut(whole))
    return path


@pytest.mark.parametrize(
    ("cut", "cause"),
    [
        (lambda whole: b"", "not a Parquet file"),
        (lambda whole: b"PAR1", "not a Parquet file"),
        (lambda whole: whole[:-20], "not a Parquet file"),
        (lambda whole: b'{"prompt": 1}\n' * 20, "not a Parquet file"),
        (lambda whole: whole[:-8] + b"\xff\xff\xff\x7fPAR1", "damaged Parquet footer"),
        (lambda whole: whole[-100:], "damaged Parquet footer"),
        (lambda whole: whole[:-60] + b"\0" * 52 + whole[-8:], "damaged Parquet: "),
        (lambda whole: whole[:-8] + b"\1\0\0\0PAR1", "damaged Parquet: "),
    ],
)
def test_a_damaged_parquet_footer_is_an_input_error(tmp_path, cut, cause):
    path = damaged(tmp_path / "in.parquet", cut)
    with pytest.raises(InputError) as caught:
        open_parquet(str(path))
    assert str(caught.value).startswith(f"shard {path}: {cause}")


def test_damaged_parquet_data_is_an_input_error(tmp_path):
    path = damaged(tmp_path / "in.parquet", lambda whole: whole[:4] + bytes(8000) + whole[8004:])
    with pytest.raises(InputError, match=r"^shard .*in\.parquet: damaged Parquet: "):
        read_all(path)
