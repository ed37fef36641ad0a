"""plan.py: shards become spans, once; a grown input adds to them, a changed one is refused."""

import itertools
import json
import os
import shutil

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchgen import plan, planfile, read
from batchgen import scan as scan_
from batchgen import sizes as sizes_
from batchgen.errors import BAD_JOB, InputError, JobError, OutputConflict
from batchgen.records import Shard, Span
from batchgen.spec import Job
from batchgen.store import open_store


def make_job(path, **sections):
    sections["input"] = {"path": str(path), "prompt": "prompt", **sections.get("input", {})}
    return Job.parse({"engine": {"kind": "echo"}, "output": {"path": "unused"}, **sections})


def make(job, known=()):
    found = plan.discover(job.input)
    return plan.make_plan(job, found, plan.look(job, found), tuple(known))


def freeze(job, store):
    found = plan.discover(job.input)
    return plan.freeze_plan(job, store, found, plan.look(job, found))


def touch(path):
    """Give a file a later time, as a rewrite does."""
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))


def lines(*numbers):
    return "".join(f'{{"prompt": {number}}}\n' for number in numbers)


@pytest.fixture
def folder(tmp_path):
    """An input of two shards: three rows and two."""
    made = tmp_path / "in"
    made.mkdir()
    (made / "a.jsonl").write_text(lines(1, 2, 3))
    (made / "b.jsonl").write_text(lines(4, 5))
    return made


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out"))


def ordinals(text):
    """The rows of a JSONL text: the numbers of its lines that are not blank."""
    return [number for number, line in enumerate(text.split(b"\n")) if line not in (b"", b"\r")]


def line_count(text):
    return text.count(b"\n") + (text != b"" and not text.endswith(b"\n"))


def read_ordinals(job, shards, spans):
    parts = list(read.read_spans(job.input, shards[0], spans, pa.schema([]), set())) if spans else []
    assert [(span, len(rows)) for span, rows, _ in parts] == [(span, span.rows) for span in spans]
    return [row.ordinal for _, rows, _ in parts for row in rows]


line = st.sampled_from([b"", b"\r", b'{"prompt": "a"}', b'{"prompt": "bbb"}\r', b"1", b" ", b"\r\r"]) | st.binary(
    max_size=30
).map(lambda data: data.replace(b"\n", b""))
texts = st.tuples(st.lists(line, max_size=25), st.booleans()).map(lambda t: b"\n".join(t[0]) + b"\n" * t[1])
chunks = st.sampled_from([2, 3, 7, 50, 1 << 20])


@settings(deadline=None, max_examples=200)
@given(text=texts, rows=st.integers(1, 7), cap=st.sampled_from([1, 30, 100, 1 << 20]), scan=chunks, chunk=chunks)
def test_spans_cover_exactly_the_lines_that_are_not_blank(tmp_path_factory, text, rows, cap, scan, chunk):
    assume(ordinals(text))
    path = tmp_path_factory.mktemp("plan") / "in.jsonl"
    path.write_bytes(text)
    job = make_job(path, spans={"rows": rows, "bytes": cap})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_, "SCAN_CHUNK", scan)
        patch.setattr(read, "CHUNK", chunk)
        shards, spans = make(job)
        assert read_ordinals(job, shards, spans) == ordinals(text)
    assert all(1 <= span.rows <= rows for span in spans)
    assert all(one.end <= two.start and one.offset + one.bytes <= two.offset for one, two in itertools.pairwise(spans))
    assert all(span.rows == sum(span.start <= n < span.end for n in ordinals(text)) for span in spans)
    assert (shards[0].rows, shards[0].lines, shards[0].text_bytes) == (len(ordinals(text)), line_count(text), len(text))


@settings(deadline=None, max_examples=200)
@given(text=texts, more=texts, newline=st.sampled_from([b"", b"\n", b"\r\n"]), rows=st.integers(1, 5), scan=chunks)
def test_appended_lines_add_spans_for_themselves_only(tmp_path_factory, text, more, newline, rows, scan):
    assume(ordinals(text))
    path = tmp_path_factory.mktemp("grow") / "in.jsonl"
    path.write_bytes(text)
    job = make_job(path, spans={"rows": rows})
    whole = text + newline + more
    assume(text == b"" or text.endswith(b"\n") or whole[len(text) :].startswith((b"\n", b"\r\n")) or whole == text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_, "SCAN_CHUNK", scan)
        before, first = make(job)
        path.write_bytes(whole)
        touch(path)
        after, added = make(job, before)
        assert read_ordinals(job, after or before, added) == [n for n in ordinals(whole) if n >= before[0].lines]
    assert all(span.start >= before[0].lines and span.rows <= rows for span in added)
    assert not {span.name for span in first} & {span.name for span in added}


def test_a_blank_line_is_not_a_row(tmp_path):
    (tmp_path / "in.jsonl").write_text('\n{"prompt": 1}\n\n\r\n{"prompt": 2}\n\n')
    [shard], [span] = make(make_job(tmp_path / "in.jsonl"))
    assert (shard.rows, shard.lines, span.start, span.end, span.rows) == (2, 6, 0, 6, 2)


def test_spans_are_cut_by_rows(folder):
    shards, spans = make(make_job(folder, spans={"rows": 2}))
    assert [(span.shard, span.start, span.end, span.rows) for span in spans] == [(0, 0, 2, 2), (0, 2, 3, 1), (1, 0, 2, 2)]
    assert [(shard.index, shard.name, shard.rows) for shard in shards] == [
        (0, f"{folder}/a.jsonl", 3),
        (1, f"{folder}/b.jsonl", 2),
    ]


def test_spans_are_cut_by_bytes_and_hold_at_least_a_row(folder):
    _, spans = make(make_job(folder, spans={"bytes": 1}))
    size = len(lines(1))
    assert [(span.rows, span.offset, span.bytes) for span in spans[:3]] == [(1, 0, size), (1, size, size), (1, 2 * size, size)]


@pytest.mark.parametrize("cap", [10, 15, 16, 40, 1000])
def test_a_span_is_over_its_bytes_by_less_than_a_line(tmp_path, cap):
    (tmp_path / "in.jsonl").write_text(lines(*range(100)))
    _, spans = make(make_job(tmp_path / "in.jsonl", spans={"rows": 1000, "bytes": cap}))
    assert all(cap <= span.bytes < cap + len(lines(10)) for span in spans[:-1])
    assert sum(span.rows for span in spans) == 100


def test_the_name_of_a_span_is_its_shard_and_its_rows():
    assert Span(3, 10, 20, 9, 5, 5).name == "000003-000000000010-000000000020"


def test_freezing_twice_is_the_same_plan_and_one_file(folder, store):
    job = make_job(folder, spans={"rows": 2})
    first = freeze(job, store)
    assert freeze(job, store) == first == planfile.load_plan(store, 1)[0]
    assert list(store.list(planfile.FOLDER)) == ["_batchgen/plan/000000.parquet"]


def test_a_frozen_plan_is_what_was_made(folder, store):
    job = make_job(folder, spans={"rows": 2})
    frozen = freeze(job, store)
    assert (list(frozen.shards), frozen.spans) == make(job)
    assert planfile.load_plan(store, 1) == (frozen, 1)


def test_an_output_without_a_plan_has_an_empty_one(store):
    assert planfile.load_plan(store, 3) == (planfile.Plan((), [], 3), 0)


def test_the_plan_stays_when_the_span_size_changes(folder, store):
    first = freeze(make_job(folder, spans={"rows": 1}), store)
    assert freeze(make_job(folder, spans={"rows": 100}), store) == first


def test_planned_rows_count_variants_and_samples(folder, store):
    steering = {"schema": "karakuri", "sweep": {"verbosity": [0, 2, 4]}}
    frozen = freeze(make_job(folder, attributes=steering, sampling={"n": 2}), store)
    assert (frozen.factor, frozen.rows) == (6, 30)


def test_missing_spans_are_those_without_a_part_in_plan_order(folder, store):
    frozen = freeze(make_job(folder, spans={"rows": 1}), store)
    done = {frozen.spans[1].name, frozen.spans[3].name, "999999-of-another-job"}
    assert frozen.missing(done) == [frozen.spans[0], frozen.spans[2], frozen.spans[4]]
    assert frozen.by_name()[frozen.spans[1].name] == frozen.spans[1]


def test_growth_adds_a_plan_file_and_leaves_the_first_as_it_is(folder, store):
    job = make_job(folder, spans={"rows": 2})
    first, file = freeze(job, store), store.get("_batchgen/plan/000000.parquet")
    with open(folder / "a.jsonl", "a") as shard:
        shard.write(lines(6, 7, 8))
    grown = freeze(job, store)
    assert grown.spans[: len(first.spans)] == first.spans
    assert [(span.shard, span.start, span.end) for span in grown.spans[len(first.spans) :]] == [(0, 3, 5), (0, 5, 6)]
    assert store.get("_batchgen/plan/000000.parquet") == file
    assert sorted(store.list(planfile.FOLDER)) == [f"_batchgen/plan/00000{n}.parquet" for n in (0, 1)]


def test_an_input_can_grow_again_and_again(folder, store):
    job = make_job(folder)
    freeze(job, store)
    for number in range(3):
        with open(folder / "b.jsonl", "a") as shard:
            shard.write(lines(number))
        touch(folder / "b.jsonl")
        frozen = freeze(job, store)
    assert [(span.start, span.end) for span in frozen.spans if span.shard == 1] == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert (frozen.shards[1].rows, frozen.rows) == (5, 8)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_last_line_without_a_newline_may_be_ended_later(folder, store, newline):
    (folder / "a.jsonl").write_text('{"prompt": 1}')
    freeze(make_job(folder), store)
    (folder / "a.jsonl").write_bytes(f'{{"prompt": 1}}{newline}{{"prompt": 2}}'.encode())
    spans = [(span.start, span.end) for span in freeze(make_job(folder), store).spans if span.shard == 0]
    assert spans == [(0, 1), (1, 2)]


@pytest.mark.parametrize("more", [" ", "x", '{"prompt": 2}\n', "\r"])
def test_a_last_line_that_was_continued_is_refused_by_its_shard(folder, store, more):
    (folder / "a.jsonl").write_text('{"prompt": 1}')
    freeze(make_job(folder), store)
    with open(folder / "a.jsonl", "a", newline="") as shard:
        shard.write(more)
    with pytest.raises(OutputConflict, match=rf"^shard {folder}/a\.jsonl is not what was planned: its rows changed; "):
        freeze(make_job(folder), store)


@pytest.mark.parametrize(
    "text", [lines(1, 9, 3), lines(1, 2), lines(9) + lines(1, 2, 3), lines(9, 2, 3, 4), "", lines(1, 2, 3).rstrip()]
)
def test_a_changed_shard_is_refused_by_its_name(folder, store, text):
    freeze(make_job(folder), store)
    (folder / "a.jsonl").write_text(text)
    touch(folder / "a.jsonl")
    with pytest.raises(OutputConflict) as caught:
        freeze(make_job(folder), store)
    remedy = "restore it, or choose another output.path"
    assert str(caught.value) == f"shard {folder}/a.jsonl is not what was planned: its rows changed; {remedy}"
    assert caught.value.exit_code == BAD_JOB


def test_a_vanished_shard_is_refused_by_its_name(folder, store):
    freeze(make_job(folder), store)
    (folder / "b.jsonl").unlink()
    with pytest.raises(OutputConflict) as caught:
        freeze(make_job(folder), store)
    remedy = "bring it back, or choose another output.path"
    assert str(caught.value) == f"planned shard {folder}/b.jsonl is not in the input any more; {remedy}"


def test_a_refused_input_leaves_the_plan_as_it_is(folder, store):
    frozen = freeze(make_job(folder), store)
    (folder / "c.jsonl").write_text(lines(6))
    (folder / "b.jsonl").write_text(lines(9, 9))
    touch(folder / "b.jsonl")
    with pytest.raises(OutputConflict):
        freeze(make_job(folder), store)
    assert planfile.load_plan(store, 1) == (frozen, 1)


def test_a_new_shard_has_the_next_index_wherever_it_sorts(folder, store):
    freeze(make_job(folder), store)
    (folder / "0.jsonl").write_text(lines(6))
    shards = freeze(make_job(folder), store).shards
    assert [(shard.index, shard.name) for shard in shards] == [
        (0, f"{folder}/a.jsonl"),
        (1, f"{folder}/b.jsonl"),
        (2, f"{folder}/0.jsonl"),
    ]


def test_a_new_shard_without_rows_is_planned_once(folder, store):
    freeze(make_job(folder), store)
    (folder / "c.jsonl").write_text("\n\n")
    freeze(make_job(folder), store)
    freeze(make_job(folder), store)
    assert sorted(store.list(planfile.FOLDER)) == [f"_batchgen/plan/00000{n}.parquet" for n in (0, 1)]


def test_a_touched_shard_of_the_same_content_is_accepted(folder, store):
    frozen = freeze(make_job(folder), store)
    touch(folder / "a.jsonl")
    assert freeze(make_job(folder), store) == frozen


def test_blank_lines_appended_are_no_growth(folder, store):
    frozen = freeze(make_job(folder), store)
    with open(folder / "a.jsonl", "a") as shard:
        shard.write("\n\r\n")
    assert freeze(make_job(folder), store) == frozen


def test_a_compressed_shard_grows_by_its_text(tmp_path, store):
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "in.jsonl.zst").write_bytes(pack(lines(1, 2).encode()))
    job = make_job(tmp_path / "in.jsonl.zst")
    freeze(job, store)
    (tmp_path / "in.jsonl.zst").write_bytes(pack(lines(1, 2, 3).encode()))
    touch(tmp_path / "in.jsonl.zst")
    assert [(span.start, span.end) for span in freeze(job, store).spans] == [(0, 2), (2, 3)]


def write_parquet(path, count):
    pq.write_table(pa.table({"prompt": list(range(count))}), path)
    return path


def test_parquet_spans_go_by_position(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", 10)
    [shard], spans = make(make_job(path, spans={"rows": 4}))
    assert spans == [Span(0, 0, 4, 4), Span(0, 4, 8, 4), Span(0, 8, 10, 2)]
    assert (shard.format, shard.rows, shard.lines) == ("parquet", 10, 10)


def test_a_touched_parquet_shard_is_accepted_and_a_changed_one_refused(tmp_path, store):
    path = write_parquet(tmp_path / "in.parquet", 10)
    frozen = freeze(make_job(path), store)
    touch(path)
    assert freeze(make_job(path), store) == frozen
    touch(write_parquet(path, 11))
    with pytest.raises(OutputConflict, match=rf"^shard {path} is not what was planned"):
        freeze(make_job(path), store)


def test_a_changed_saved_dataset_is_refused_by_its_name(tmp_path, store):
    job = make_job(tmp_path / "set", input={"format": "dataset"})
    datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}]).save_to_disk(tmp_path / "set")
    frozen = freeze(job, store)
    assert (frozen.spans, freeze(job, store)) == ([Span(0, 0, 2, 2)], frozen)
    shutil.rmtree(tmp_path / "set")
    datasets.Dataset.from_list([{"prompt": "c"}, {"prompt": "d"}]).save_to_disk(tmp_path / "set")
    with pytest.raises(OutputConflict, match=rf"^shard {tmp_path}/set is not what was planned"):
        freeze(job, store)


@pytest.mark.parametrize(
    ("estimate", "sections", "expected"),
    [
        (0, {}, 32),
        (10, {}, 32),
        (6400, {"replicas": {"max": 2}}, 200),
        (6400, {"replicas": {"max": 2}, "sampling": {"n": 4}}, 200),
        (10**8, {}, 1024),
        (10**9, {}, 4000),
        (10**8, {"sampling": {"n": 1024}}, 400),
        (10**6, {"sampling": {"n": 1024}}, 4),
        (10, {"sampling": {"n": 100}}, 1),
        (10**9, {"spans": {"rows": 7}}, 7),
    ],
)
def test_a_span_has_rows_for_32_to_1024_completions_unless_there_are_too_many_spans(estimate, sections, expected):
    assert sizes_.span_sizes(make_job("unused", **sections), estimate).most == expected


@pytest.mark.parametrize("estimate", [1, 10**5, 10**8, 10**9, 10**10])
def test_there_are_never_many_more_spans_than_the_cap(estimate):
    sizes, spans, left = sizes_.span_sizes(make_job("unused"), estimate), 0, estimate
    while left > 0:
        whole = max(1, (left - sizes_.TAIL_SHARES * sizes.pool * sizes.most) // sizes.most)
        spans, left = spans + whole, left - whole * sizes.rows(left)
    assert spans <= sizes_.SPANS_CAP * 1.1


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_spans_get_smaller_towards_the_end_of_the_plan_over_all_its_shards(tmp_path, kind):
    for name in ("a", "b"):
        rows = [{"prompt": f"row {n:05d}"} for n in range(4_000)]
        if kind == "jsonl":
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    _, spans = make(make_job(str(tmp_path), replicas={"max": 2}))
    sizes = [span.rows for span in spans]
    assert sum(sizes) == 8_000
    assert 240 <= sizes[0] <= 270
    ends = {0: max(span.rows for span in spans if span.shard == 0), 1: spans[-1].rows}
    assert ends[0] == sizes[0], "the first shard does not end the plan"
    assert ends[1] <= sizes_.LEAST_COMPLETIONS
    late = [span.rows for span in spans[-12:-1]]
    assert late == sorted(late, reverse=True)


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"input": {"prompt": "wrong"}}, "input.prompt"),
        ({"input": {"id": "wrong"}}, "input.id"),
        ({"input": {"system": {"column": "wrong"}}}, "input.system"),
        ({"input": {"keep": ["prompt", "wrong"]}}, "input.keep[1]"),
        ({"sampling": {"temperature": {"column": "wrong"}}}, "sampling.temperature"),
        ({"attributes": {"schema": "karakuri", "columns": {"humor": "wrong"}}}, "attributes.columns.humor"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, sections, field, ending):
    path = tmp_path / f"in.{ending}"
    if ending == "jsonl":
        path.write_text('{"prompt": "a", "extra": 1}\n')
    else:
        pq.write_table(pa.table({"prompt": ["a"], "extra": [1]}), path)
    with pytest.raises(JobError) as caught:
        make(make_job(path, **sections))
    assert str(caught.value) == f"{field}: no column 'wrong' in the input; its columns are extra, prompt"
    assert caught.value.exit_code == BAD_JOB


def test_a_column_of_a_later_row_is_there(tmp_path):
    (tmp_path / "in.jsonl").write_text('nonsense\n{"prompt": "a"}\n{"id": "b"}\n')
    job = make_job(tmp_path / "in.jsonl", input={"id": "id"})
    assert plan.look(job, plan.discover(job.input)).names == ("prompt", "id")


def test_kept_columns_of_an_input_without_a_good_row_are_no_crash(tmp_path):
    (tmp_path / "in.jsonl").write_text("nonsense\n")
    shards, spans = make(make_job(tmp_path / "in.jsonl", input={"keep": ["prompt"]}))
    assert (shards[0].rows, spans[0].rows) == (1, 1)


def test_two_columns_that_would_be_carried_under_one_name_are_refused(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "row": 1, "input_row": 2}\n')
    with pytest.raises(
        InputError, match=r"^two input columns would both be carried as input_row; leave one out with input\.keep$"
    ):
        make(make_job(tmp_path / "in.jsonl"))


def test_two_formats_in_one_input_are_refused(folder):
    write_parquet(folder / "c.parquet", 1)
    with pytest.raises(InputError, match=r"^input\.path leads to both jsonl and parquet shards; give each its own job$"):
        plan.discover(make_job(folder).input)


def test_a_shard_of_an_unknown_format_is_refused_unless_the_job_names_it(tmp_path):
    (tmp_path / "in.txt").write_text(lines(1))
    with pytest.raises(InputError, match=r"in\.txt: unknown format; set input\.format, or use an ending of \.jsonl "):
        plan.discover(make_job(tmp_path / "in.txt").input)
    [found] = plan.discover(make_job(tmp_path / "in.txt", input={"format": "jsonl"}).input)
    assert (found.name, found.format, found.size) == (f"{tmp_path}/in.txt", "jsonl", len(lines(1)))


def test_a_shard_that_two_paths_lead_to_is_found_once(folder):
    found = plan.discover(make_job("x", input={"path": [f"{folder}/b.jsonl", str(folder), f"{folder}/*.jsonl"]}).input)
    assert [shard.name for shard in found] == [f"{folder}/b.jsonl", f"{folder}/a.jsonl"]


@pytest.mark.parametrize("text", ["", "\n", "\r\n\n"])
def test_an_input_without_rows_is_refused_and_plans_nothing(tmp_path, store, text):
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(InputError, match=rf"^input\.path {tmp_path}/in\.jsonl: no rows in it$"):
        freeze(make_job(tmp_path / "in.jsonl"), store)
    assert list(store.list("")) == []


def test_a_plan_file_is_a_parquet_of_its_spans(tmp_path):
    shard = Shard(0, "a", "jsonl", 9, "s", "d", 3, 2, 9, False)
    (tmp_path / "plan.parquet").write_bytes(planfile.encode_plan([shard], [Span(0, 0, 3, 2, 0, 9)]))
    [row] = pq.read_table(tmp_path / "plan.parquet").to_pylist()
    assert row == {"shard": 0, "start": 0, "end": 3, "rows": 2, "offset": 0, "bytes": 9}
