"""tables.py: Parquet and saved datasets are read by row range; extension types and damage are refused."""

import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.read import reader, tables
from batchgen.records import Shard, Span
from tests.support.reading import NONE, planned, read_all, spec


def write_parquet(path, table, **options):
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("spans", [[(0, 25)], [(3, 10), (10, 11), (11, 25)], [(7, 8)], [(23, 25)], [(0, 7), (7, 14)]])
def test_parquet_is_read_by_row_range_across_row_groups(tmp_path, spans):
    table = pa.table({"prompt": [f"p{number}" for number in range(25)], "n": list(range(25))})
    path = write_parquet(tmp_path / "in.parquet", table, row_group_size=7)
    shard = Shard(0, str(path), "parquet", 0, "", "", 25, 25)
    wanted = [Span(0, low, high, high - low) for low, high in spans]
    parts = list(reader.read_spans(spec(), shard, wanted, pa.schema([("n", pa.int64())]), {"prompt"}))
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
        for _, _, table in reader.read_spans(job.input, shard, [span], columns.kept, set())
    ]
    assert parts == [[{"prompt": "a", "n": 1}], [{"prompt": "b", "n": None}]]


def test_parquet_with_fewer_rows_than_planned_is_an_input_error(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": ["a", "b"]}))
    shard = Shard(0, str(path), "parquet", 0, "", "", 3, 3)
    with pytest.raises(InputError, match=r"in\.parquet: it has fewer rows than planned: it changed$"):
        list(reader.read_spans(spec(), shard, [Span(0, 0, 3, 3)], NONE, {"prompt"}))


def test_a_dictionary_column_is_carried_as_its_values(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": pa.array(["a", "b", "a"]).dictionary_encode()}))
    rows, table = read_all(path)
    assert [row.data["prompt"] for row in rows] == table.column("prompt").to_pylist() == ["a", "b", "a"]
    assert table.schema.field("prompt").type == pa.string()


@pytest.mark.parametrize("name", ["n", "a_name_of_more_than_thirty_two_letters_in_all", "x" * 41, "=" * 33])
def test_a_parquet_file_of_plain_types_is_opened_whatever_its_names(tmp_path, name):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": ["A" * 41], name: [1]}))
    assert tables.open_parquet(str(path))[0].schema_arrow.names == ["prompt", name]


@pytest.fixture
def extension():
    """A registered Arrow extension type; `opened` counts how often its bytes were interpreted."""

    class Hostile(pa.ExtensionType):
        opened = 0

        def __init__(self):
            super().__init__(pa.string(), "batchgen.tests.hostile")

        def __arrow_ext_serialize__(self):
            return b"payload"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            Hostile.opened += 1
            return Hostile()

    pa.register_extension_type(Hostile())
    yield Hostile
    pa.unregister_extension_type("batchgen.tests.hostile")


def hostile_column(extension, shape):
    inner = pa.ExtensionArray.from_storage(extension(), pa.array(["a", "b"]))
    if shape == "struct":
        return pa.StructArray.from_arrays([inner], names=["x"])
    return pa.ListArray.from_arrays([0, 1, 2], inner) if shape == "list" else inner


@pytest.mark.parametrize("shape", ["plain", "struct", "list"])
@pytest.mark.parametrize("padding", range(4))
def test_an_extension_type_in_a_parquet_file_is_refused_before_it_is_interpreted(tmp_path, extension, shape, padding):
    columns = {"prompt": pa.array(["a", "b"]), "x" * (padding + 1): hostile_column(extension, shape)}
    table = pa.table(columns).replace_schema_metadata({"k" * padding: "A" * padding})
    path = write_parquet(tmp_path / "in.parquet", table)
    extension.opened = 0
    with pytest.raises(InputError, match=r"in\.parquet: it has an Arrow extension type; write the column with a plain type$"):
        tables.open_parquet(str(path))
    assert extension.opened == 0


UNION = pa.sparse_union([pa.field("a", pa.int32()), pa.field("b", pa.string())])


@pytest.mark.parametrize("kind", [UNION, pa.list_(UNION), pa.struct([("x", UNION)]), pa.uuid(), pa.list_(pa.json_())])
def test_a_union_or_extension_is_not_allowed_at_any_depth(kind):
    with pytest.raises(InputError, match=r"^shard in\.parquet: column c: type .* is not allowed; write it with a plain type$"):
        tables._allow("in.parquet", "c", kind)


@pytest.mark.parametrize(
    "kind",
    [
        pa.null(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(4),
        pa.decimal128(9, 2),
        pa.timestamp("us", "UTC"),
        pa.float16(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.map_(pa.string(), pa.list_(pa.struct([("x", pa.date32())]))),
    ],
    ids=str,
)
def test_plain_types_are_allowed_at_any_depth(kind):
    assert tables._allow("in.parquet", "c", pa.list_(kind)) is None


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
        tables.open_parquet(str(path))
    assert str(caught.value).startswith(f"shard {path}: {cause}")


def test_damaged_parquet_data_is_an_input_error(tmp_path):
    path = damaged(tmp_path / "in.parquet", lambda whole: whole[:200] + bytes(8000) + whole[8200:])
    with pytest.raises(InputError, match=r"^shard .*in\.parquet: damaged Parquet: "):
        read_all(path)


def saved(folder, count=50):
    dataset = datasets.Dataset.from_list([{"prompt": f"p{number}", "n": number} for number in range(count)])
    dataset.save_to_disk(folder)
    return folder


def test_a_saved_dataset_is_read_by_row_range(tmp_path):
    shard = Shard(0, str(saved(tmp_path / "set")), "dataset", 0, "", "", 50, 50)
    wanted = [Span(0, 3, 10, 7), Span(0, 10, 11, 1)]
    parts = list(reader.read_spans(spec(format="dataset"), shard, wanted, pa.schema([("n", pa.int64())]), {"prompt"}))
    assert [[row.ordinal for row in rows] for _, rows, _ in parts] == [[3, 4, 5, 6, 7, 8, 9], [10]]
    assert [row.data for row in parts[1][1]] == [{"prompt": "p10"}]
    assert parts[0][2].to_pydict() == {"n": [3, 4, 5, 6, 7, 8, 9]}


def test_a_saved_dataset_is_read_whole(tmp_path):
    rows, table = read_all(saved(tmp_path / "set", 2500), input={"format": "dataset"}, spans={"rows": 700})
    assert [(row.ordinal, row.data) for row in rows] == [(n, {"prompt": f"p{n}"}) for n in range(2500)]
    assert table.column("n").to_pylist() == list(range(2500))


def test_the_split_of_a_saved_dictionary_is_chosen(tmp_path):
    splits = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    rows, _ = read_all(tmp_path / "set", input={"format": "dataset", "split": "test"})
    assert [row.data for row in rows] == [{"prompt": "test"}]


def test_a_directory_that_is_no_dataset_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=rf"^dataset {tmp_path}: .*; name a Hub dataset or a directory made by save_to_disk$"):
        tables.load_dataset(spec(format="dataset"), str(tmp_path))


@pytest.mark.parametrize("way", ["as saved", "behind much metadata", "in a file of another name"])
def test_an_extension_type_in_a_saved_dataset_is_refused_before_it_is_interpreted(tmp_path, extension, way):
    folder = saved(tmp_path / "set", 2)
    [file] = folder.glob("*.arrow")
    schema = pa.schema([("prompt", extension())], metadata={"x": "y" * (3 << 20)} if way == "behind much metadata" else None)
    file.unlink()
    if way == "in a file of another name":
        state = folder / "state.json"
        state.write_text(state.read_text().replace(file.name, "data.bin"))
        file = folder / "data.bin"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table([hostile_column(extension, "plain")], schema=schema))
    extension.opened = 0
    with pytest.raises(InputError):
        tables.load_dataset(spec(format="dataset"), str(folder))
    assert extension.opened == 0
