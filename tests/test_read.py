"""read.py: spans become rows, and a bad row is one error row."""

import gzip
import json
import math
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen import carry, plan, read, tables
from batchgen.errors import BAD_JOB, InputError
from batchgen.records import Shard, Span, carried_name
from batchgen.spec import Input, Job

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
NONE = pa.schema([])


def spec(**fields):
    return Input(path="unused", prompt="prompt", **fields)


def read_text(path, text, kept=NONE, rows=None, **fields):
    """All rows of `text` as the JSONL file `path`, read as one span; `rows` of its lines are not blank."""
    path.write_bytes(text)
    count = len(text.splitlines()) if rows is None else rows
    span = Span(0, 0, text.count(b"\n") + (not text.endswith(b"\n")), count, 0, len(text))
    shard = Shard(0, str(path), "jsonl", len(text), "", "", span.end, count)
    [(_, found, table)] = read.read_spans(spec(**fields), shard, [span], kept, set())
    return found if kept is NONE else (found, table)


def planned(path, **sections):
    """Job, columns, shards and spans of an input."""
    sections["input"] = {"path": str(path), "prompt": "prompt", **sections.get("input", {})}
    job = Job.parse({"engine": {"kind": "echo"}, "output": {"path": "unused"}, **sections})
    found = plan.discover(job.input)
    columns = plan.look(job, found)
    return job, columns, *plan.make_plan(job, found, columns)


def read_all(path, **sections):
    """Rows and carried columns of an input of one shard, as `run` would read them."""
    job, columns, [shard], spans = planned(path, **sections)
    parts = list(read.read_spans(job.input, shard, spans, columns.kept, {"prompt"}))
    return [row for _, rows, _ in parts for row in rows], pa.concat_tables([table for _, _, table in parts])


@pytest.mark.parametrize("ending", PACK)
def test_rows_are_read_from_plain_and_compressed_text(tmp_path, ending):
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(PACK[ending](b'{"prompt": "a"}\n\n{"prompt": "b"}\r\n{"prompt": "c"}'))
    rows, _ = read_all(path)
    assert [(row.ordinal, row.data, row.error) for row in rows] == [
        (0, {"prompt": "a"}, None),
        (2, {"prompt": "b"}, None),
        (3, {"prompt": "c"}, None),
    ]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_span_in_the_middle_of_a_file_is_read_alone(tmp_path, monkeypatch, ending, chunk):
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(PACK[ending](b"".join(b'{"prompt": %d}\n' % number for number in range(20))))
    monkeypatch.setattr(read, "CHUNK", chunk)
    job, columns, [shard], spans = planned(path, spans={"rows": 3})
    [(span, rows, _)] = read.read_spans(job.input, shard, spans[2:3], columns.kept, set())
    assert (span, [row.ordinal for row in rows]) == (spans[2], [6, 7, 8])
    assert [row.data for row in rows] == [{"prompt": 6}, {"prompt": 7}, {"prompt": 8}]


def test_compressed_frames_one_after_another_are_one_text(tmp_path):
    for ending in (".gz", ".zst"):
        path = tmp_path / f"in.jsonl{ending}"
        path.write_bytes(PACK[ending](b'{"prompt": 1}\n') + PACK[ending](b'{"prompt": 2}\n'))
        assert [row.data["prompt"] for row in read_all(path)[0]] == [1, 2]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b'{"prompt": "x"', "invalid JSON: "),
        (b"nonsense", "invalid JSON: "),
        (b"  ", "invalid JSON: "),
        (b'{"prompt": "\\ud800"}', "invalid JSON: "),
        (b"[" * 50_000, "invalid JSON: "),
        (b'{"a": ' * 3000 + b"1" + b"}" * 3000, "invalid JSON: "),
        (b'{"prompt": "\xff"}', "invalid UTF-8 at byte 13"),
        (b'["prompt"]', "expected a JSON object, got list"),
        (b'"prompt"', "expected a JSON object, got str"),
        (b"null", "expected a JSON object, got NoneType"),
        (b"NaN", "expected a JSON object, got float"),
        (b'{"prompt": "' + b"x" * 100_000 + b'"}', "the line is over input.max_row_bytes (60000)"),
    ],
)
def test_a_bad_line_is_one_error_row_between_intact_neighbours(tmp_path, line, cause):
    path = tmp_path / "in.jsonl"
    before, bad, after = read_text(path, b'{"prompt": 1}\n' + line + b'\n{"prompt": 3}\n', max_row_bytes=60_000)
    assert (before.data, after.data, after.ordinal) == ({"prompt": 1}, {"prompt": 3}, 2)
    assert (bad.ordinal, bad.data, bad.error.code) == (1, None, "input")
    assert bad.error.detail.startswith(f"{path}:2: {cause}")


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_cap_is_on_the_line_without_its_newline(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(read, "CHUNK", chunk)
    fits, over = b'{"prompt": "0123"}', b'{"prompt": "01234"}'
    rows = read_text(tmp_path / "in.jsonl", b"\n".join([fits, over, fits, over]), max_row_bytes=len(fits))
    assert [row.data for row in rows] == [{"prompt": "0123"}, None, {"prompt": "0123"}, None]


def test_a_line_over_the_cap_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "CHUNK", 10)
    held = [line for _, line in read.lines(open_bytes(tmp_path, b"x" * 5000 + b"\n" + b"y" * 20), "in", 20)]
    assert held == [None, b"y" * 20]


def open_bytes(folder, data):
    (folder / "text").write_bytes(data)
    return open(folder / "text", "rb")


def test_lines_give_their_length_with_the_newline(tmp_path):
    with open_bytes(tmp_path, b"ab\n\n\r\nlonger\nend") as stream:
        assert list(read.lines(stream, "in", 5)) == [(3, b"ab"), (1, b""), (2, b"\r"), (7, None), (3, b"end")]


def test_a_byte_order_mark_starts_a_file_and_no_other_line(tmp_path):
    mark = b"\xef\xbb\xbf"
    first, second = read_text(tmp_path / "in.jsonl", mark + b'{"prompt": 1}\n' + mark + b'{"prompt": 2}\n')
    assert (first.data, second.data) == ({"prompt": 1}, None)
    assert second.error.detail.startswith(f"{tmp_path}/in.jsonl:2: invalid JSON: ")


def test_nan_and_infinity_are_numbers(tmp_path):
    [row] = read_text(tmp_path / "in.jsonl", b'{"a": NaN, "b": Infinity, "c": -Infinity}\n')
    assert math.isnan(row.data["a"])
    assert (row.data["b"], row.data["c"]) == (math.inf, -math.inf)


def test_a_carriage_return_is_not_part_of_a_row(tmp_path):
    rows = read_text(tmp_path / "in.jsonl", b'{"prompt": "a"}\r\n\r\n{"prompt": "b"}\r\n', rows=2)
    assert [(row.ordinal, row.data) for row in rows] == [(0, {"prompt": "a"}), (2, {"prompt": "b"})]


def test_fewer_rows_than_planned_are_an_input_error(tmp_path):
    path = tmp_path / "in.jsonl"
    with pytest.raises(InputError, match=r"in\.jsonl: 1 rows instead of 2 from line 1: it changed$") as caught:
        read_text(path, b'{"prompt": 1}\n\n', rows=2)
    assert caught.value.exit_code == BAD_JOB


@pytest.mark.parametrize(("ending", "cut"), [(".gz", 0.5), (".zst", 0.5), (".gz", 0.9), (".zst", 0.9)])
def test_a_truncated_compressed_shard_is_an_input_error_that_names_it(tmp_path, ending, cut):
    path = tmp_path / f"in.jsonl{ending}"
    whole = PACK[ending](b"".join(b'{"prompt": "%s"}\n' % os.urandom(30).hex().encode() for _ in range(9000)))
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(InputError, match=rf"^shard .*in\.jsonl\{ending}: damaged or unreadable: .*; write it again$"):
        read_all(path)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_shard_that_is_not_compressed_as_its_name_says_is_an_input_error(tmp_path, ending):
    path = tmp_path / f"in.jsonl{ending}"
    path.write_bytes(b'{"prompt": 1}\n')
    with pytest.raises(InputError, match=rf"^shard .*in\.jsonl\{ending}: damaged or unreadable: .*; write it again$"):
        read_all(path)


def inferred(*rows):
    return {field.name: "json" if field.metadata else str(field.type) for field in carry.infer_columns(rows)}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "int64"),
        ([1, None], "int64"),
        ([1, 2.5], "double"),
        ([1.5], "double"),
        ([True, False], "bool"),
        (["a", None], "string"),
        ([True, 1], "json"),
        ([1, "a"], "json"),
        ([None], "json"),
        ([{"a": 1}], "json"),
        ([["a"], ["b", None], []], "list<item: string>"),
        ([[1], [2.5]], "list<item: double>"),
        ([[1], ["a"]], "json"),
        ([[["a"]]], "json"),
        ([[{"a": 1}]], "json"),
        ([[]], "json"),
        ([["a"], "a"], "json"),
    ],
)
def test_a_column_has_the_type_of_its_values_or_is_json_text(values, kind):
    assert inferred(*({"a": value} for value in values)) == {"a": kind}


def test_json_text_columns_are_strings():
    assert carry.infer_columns([{"a": {}}]).field("a").type == pa.string()


def test_columns_are_in_order_of_appearance():
    assert list(inferred({"b": 1}, {"a": 1, "b": 2}, {"c": 1})) == ["b", "a", "c"]


def carried(tmp_path, monkeypatch, head, *later, **sections):
    """The carried columns of rows, of which only the first was there to tell the types."""
    monkeypatch.setattr(plan, "HEAD_ROWS", 1)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (head, *later)))
    return read_all(tmp_path / "in.jsonl", **sections)[1].to_pylist()


def test_what_fits_has_no_extra(tmp_path, monkeypatch):
    row = {"prompt": "a", "n": 1, "tags": ["x"], "meta": {"k": [1]}}
    assert carried(tmp_path, monkeypatch, row) == [row | {"meta": '{"k": [1]}', "input_extra": None}]


@pytest.mark.parametrize(
    ("seen", "misfit"),
    [(1, 1.5), (1, "1"), (1, True), (1, 2**63), (1.5, 2**53 + 1), (1.5, "x"), ("x", 1), (True, 1), (["x"], [1]), (["x"], "x")],
)
def test_a_value_that_does_not_fit_is_carried_in_input_extra(tmp_path, monkeypatch, seen, misfit):
    _, row = carried(tmp_path, monkeypatch, {"prompt": "a", "x": seen}, {"prompt": "b", "x": misfit})
    extra = json.loads(row["input_extra"])
    assert (row["prompt"], row["x"], extra, type(extra["x"])) == ("b", None, {"x": misfit}, type(misfit))


def test_an_unknown_column_is_carried_in_input_extra(tmp_path, monkeypatch):
    _, row = carried(tmp_path, monkeypatch, {"prompt": "a"}, {"prompt": "b", "é": [1, {"k": None}]})
    assert row == {"prompt": "b", "input_extra": '{"é": [1, {"k": null}]}'}


def test_a_column_whose_name_the_output_takes_has_a_prefix(tmp_path, monkeypatch):
    [row] = carried(tmp_path, monkeypatch, {"prompt": "a", "row": 7, "status": "new"})
    assert row == {"prompt": "a", "input_row": 7, "input_status": "new", "input_extra": None}


def test_a_column_that_is_not_kept_is_not_carried_at_all(tmp_path, monkeypatch):
    rows = carried(tmp_path, monkeypatch, {"prompt": "a", "b": 1}, {"prompt": "c", "b": 2}, input={"keep": ["b"]})
    assert [row.get("input_extra") for row in rows] == [None, None]


def test_the_id_column_is_not_carried_twice(tmp_path, monkeypatch):
    [row] = carried(tmp_path, monkeypatch, {"prompt": "a", "id": "1"}, input={"id": "id"})
    assert row == {"prompt": "a", "input_extra": None}


def test_a_column_without_a_name_is_carried_or_refused(tmp_path, monkeypatch):
    try:
        [row] = carried(tmp_path, monkeypatch, {"prompt": "a", "": 1})
    except InputError:
        return
    assert 1 in row.values() or json.loads(row["input_extra"]) == {"": 1}


def test_a_bad_row_carries_nothing(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "n": 1}\nnonsense\n')
    rows, table = read_all(tmp_path / "in.jsonl")
    assert rows[1].error is not None
    assert table.to_pylist()[1] == {"prompt": None, "n": None, "input_extra": None}


numbers = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.integers(-3, 3)
scalars = st.none() | numbers | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
rows_of_values = st.lists(st.dictionaries(st.sampled_from(["a", "b", "row", "é"]), values), min_size=1, max_size=6)


def same(one, two):
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, float) and isinstance(two, float) and math.isnan(one):
        return math.isnan(two)
    return isinstance(one, bool) == isinstance(two, bool) and one == two


def recovered(row, kept, name):
    """The value of an input column from the carried ones."""
    extra = json.loads(row["input_extra"] or "{}")
    if name in extra:
        return extra[name]
    value = row.get(carried_name(name))
    is_json = value is not None and b"json" in kept.field(carried_name(name)).metadata
    return json.loads(value) if is_json else value


@settings(deadline=None, max_examples=150)
@given(rows=rows_of_values, seen=st.integers(1, 3))
def test_every_value_of_a_row_is_recovered_from_the_carried_columns(tmp_path_factory, rows, seen):
    path = tmp_path_factory.mktemp("carried") / "in.jsonl"
    rows = [{"prompt": "p", **row} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "HEAD_ROWS", seen)
        found, table = read_all(path)
    assert all(same(row.data, given) for row, given in zip(found, rows, strict=True))
    for given_row, row in zip(rows, table.to_pylist(), strict=True):
        assert all(same(recovered(row, table.schema, name), value) for name, value in given_row.items())


def write_parquet(path, table, **options):
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("spans", [[(0, 25)], [(3, 10), (10, 11), (11, 25)], [(7, 8)], [(23, 25)], [(0, 7), (7, 14)]])
def test_parquet_is_read_by_row_range_across_row_groups(tmp_path, spans):
    table = pa.table({"prompt": [f"p{number}" for number in range(25)], "n": list(range(25))})
    path = write_parquet(tmp_path / "in.parquet", table, row_group_size=7)
    shard = Shard(0, str(path), "parquet", 0, "", "", 25, 25)
    wanted = [Span(0, low, high, high - low) for low, high in spans]
    parts = list(read.read_spans(spec(), shard, wanted, pa.schema([("n", pa.int64())]), {"prompt"}))
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
        for _, _, table in read.read_spans(job.input, shard, [span], columns.kept, set())
    ]
    assert parts == [[{"prompt": "a", "n": 1}], [{"prompt": "b", "n": None}]]


def test_parquet_with_fewer_rows_than_planned_is_an_input_error(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", pa.table({"prompt": ["a", "b"]}))
    shard = Shard(0, str(path), "parquet", 0, "", "", 3, 3)
    with pytest.raises(InputError, match=r"in\.parquet: it has fewer rows than planned: it changed$"):
        list(read.read_spans(spec(), shard, [Span(0, 0, 3, 3)], NONE, {"prompt"}))


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
    parts = list(read.read_spans(spec(format="dataset"), shard, wanted, pa.schema([("n", pa.int64())]), {"prompt"}))
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
