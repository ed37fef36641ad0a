"""A grown input adds spans to its plan; a changed or vanished shard is refused by its name."""

import shutil

import datasets
import pytest
import zstandard

from batchgen.errors import BAD_JOB, OutputConflict
from batchgen.output import plan_file
from batchgen.records import Span
from tests.support.planning import freeze, lines, make_job, touch, write_parquet


def test_growth_adds_a_plan_file_and_leaves_the_first_as_it_is(two_shards, store):
    job = make_job(two_shards, spans={"rows": 2})
    first, file = freeze(job, store), store.get("_batchgen/plan/000000.plan")
    with open(two_shards / "a.jsonl", "a") as shard:
        shard.write(lines(6, 7, 8))
    grown = freeze(job, store)
    assert grown.spans[: len(first.spans)] == first.spans
    assert [(span.shard, span.start, span.end) for span in grown.spans[len(first.spans) :]] == [(0, 3, 5), (0, 5, 6)]
    assert store.get("_batchgen/plan/000000.plan") == file
    assert sorted(store.list(plan_file.FOLDER)) == [f"_batchgen/plan/00000{n}.plan" for n in (0, 1)]


def test_an_input_can_grow_again_and_again(two_shards, store):
    job = make_job(two_shards)
    freeze(job, store)
    for number in range(3):
        with open(two_shards / "b.jsonl", "a") as shard:
            shard.write(lines(number))
        touch(two_shards / "b.jsonl")
        frozen = freeze(job, store)
    assert [(span.start, span.end) for span in frozen.spans if span.shard == 1] == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert (frozen.shards[1].rows, sum(span.rows for span in frozen.spans)) == (5, 8)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_last_line_without_a_newline_may_be_ended_later(two_shards, store, newline):
    (two_shards / "a.jsonl").write_text('{"prompt": 1}')
    freeze(make_job(two_shards), store)
    (two_shards / "a.jsonl").write_bytes(f'{{"prompt": 1}}{newline}{{"prompt": 2}}'.encode())
    spans = [(span.start, span.end) for span in freeze(make_job(two_shards), store).spans if span.shard == 0]
    assert spans == [(0, 1), (1, 2)]


@pytest.mark.parametrize("more", [" ", "x", '{"prompt": 2}\n', "\r"])
def test_a_last_line_that_was_continued_is_refused_by_its_shard(two_shards, store, more):
    (two_shards / "a.jsonl").write_text('{"prompt": 1}')
    freeze(make_job(two_shards), store)
    with open(two_shards / "a.jsonl", "a", newline="") as shard:
        shard.write(more)
    with pytest.raises(OutputConflict, match=rf"^shard {two_shards}/a\.jsonl is not what was planned: its rows changed; "):
        freeze(make_job(two_shards), store)


@pytest.mark.parametrize(
    "text", [lines(1, 9, 3), lines(1, 2), lines(9) + lines(1, 2, 3), lines(9, 2, 3, 4), "", lines(1, 2, 3).rstrip()]
)
def test_a_changed_shard_is_refused_by_its_name(two_shards, store, text):
    freeze(make_job(two_shards), store)
    (two_shards / "a.jsonl").write_text(text)
    touch(two_shards / "a.jsonl")
    with pytest.raises(OutputConflict) as caught:
        freeze(make_job(two_shards), store)
    remedy = "restore it, or choose another output.path"
    assert str(caught.value) == f"shard {two_shards}/a.jsonl is not what was planned: its rows changed; {remedy}"
    assert caught.value.exit_code == BAD_JOB


def test_a_vanished_shard_is_refused_by_its_name(two_shards, store):
    freeze(make_job(two_shards), store)
    (two_shards / "b.jsonl").unlink()
    with pytest.raises(OutputConflict) as caught:
        freeze(make_job(two_shards), store)
    remedy = "bring it back, or choose another output.path"
    assert str(caught.value) == f"planned shard {two_shards}/b.jsonl is not in the input any more; {remedy}"


def test_a_refused_input_leaves_the_plan_as_it_is(two_shards, store):
    frozen = freeze(make_job(two_shards), store)
    (two_shards / "c.jsonl").write_text(lines(6))
    (two_shards / "b.jsonl").write_text(lines(9, 9))
    touch(two_shards / "b.jsonl")
    with pytest.raises(OutputConflict):
        freeze(make_job(two_shards), store)
    assert plan_file.load_plan(store, 1) == (frozen, 1)


def test_a_new_shard_has_the_next_index_wherever_it_sorts(two_shards, store):
    freeze(make_job(two_shards), store)
    (two_shards / "0.jsonl").write_text(lines(6))
    shards = freeze(make_job(two_shards), store).shards
    assert [(shard.index, shard.name) for shard in shards] == [
        (0, f"{two_shards}/a.jsonl"),
        (1, f"{two_shards}/b.jsonl"),
        (2, f"{two_shards}/0.jsonl"),
    ]


def test_a_new_shard_without_rows_is_planned_once(two_shards, store):
    freeze(make_job(two_shards), store)
    (two_shards / "c.jsonl").write_text("\n\n")
    freeze(make_job(two_shards), store)
    freeze(make_job(two_shards), store)
    assert sorted(store.list(plan_file.FOLDER)) == [f"_batchgen/plan/00000{n}.plan" for n in (0, 1)]


def test_a_touched_shard_of_the_same_content_is_accepted(two_shards, store):
    frozen = freeze(make_job(two_shards), store)
    touch(two_shards / "a.jsonl")
    assert freeze(make_job(two_shards), store) == frozen


def test_blank_lines_appended_are_no_growth(two_shards, store):
    frozen = freeze(make_job(two_shards), store)
    with open(two_shards / "a.jsonl", "a") as shard:
        shard.write("\n\r\n")
    assert freeze(make_job(two_shards), store) == frozen


def test_a_compressed_shard_grows_by_its_text(tmp_path, store):
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "in.jsonl.zst").write_bytes(pack(lines(1, 2).encode()))
    job = make_job(tmp_path / "in.jsonl.zst")
    freeze(job, store)
    (tmp_path / "in.jsonl.zst").write_bytes(pack(lines(1, 2, 3).encode()))
    touch(tmp_path / "in.jsonl.zst")
    assert [(span.start, span.end) for span in freeze(job, store).spans] == [(0, 2), (2, 3)]


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
