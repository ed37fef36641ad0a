"""Shards become spans, which are frozen once."""

import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError
from batchgen.output import plan_file
from batchgen.records import Shard, Span
from tests.support.planning import freeze, make, make_job, write_parquet


def test_the_name_of_a_span_is_its_shard_and_its_rows():
    assert Span(3, 10, 20, 9, 5, 5).name == "000003-000000000010-000000000020"


def test_freezing_twice_is_the_same_plan_and_one_file(two_shards, store):
    job = make_job(two_shards, spans={"rows": 2})
    first = freeze(job, store)
    assert freeze(job, store) == first == plan_file.load_plan(store, 1)[0]
    assert list(store.list(plan_file.FOLDER)) == ["_batchgen/plan/000000.plan"]


def test_a_frozen_plan_is_what_was_made(two_shards, store):
    job = make_job(two_shards, spans={"rows": 2})
    frozen = freeze(job, store)
    assert (list(frozen.shards), frozen.spans) == make(job)
    assert plan_file.load_plan(store, 1) == (frozen, 1)


def test_an_output_without_a_plan_has_an_empty_one(store):
    assert plan_file.load_plan(store, 3) == (plan_file.Plan((), [], 3), 0)


def test_the_plan_stays_when_the_span_size_changes(two_shards, store):
    first = freeze(make_job(two_shards, spans={"rows": 1}), store)
    assert freeze(make_job(two_shards, spans={"rows": 100}), store) == first


def test_planned_rows_count_variants_and_samples(two_shards, store):
    steering = {"schema": "karakuri", "sweep": {"verbosity": [0, 2, 4]}}
    frozen = freeze(make_job(two_shards, attributes=steering, sampling={"n": 2}), store)
    assert (frozen.factor, sum(span.rows for span in frozen.spans)) == (6, 5)


def test_missing_spans_are_those_without_a_part_in_plan_order(two_shards, store):
    frozen = freeze(make_job(two_shards, spans={"rows": 1}), store)
    done = {frozen.spans[1].name, frozen.spans[3].name, "999999-of-another-job"}
    assert frozen.missing(done) == [frozen.spans[0], frozen.spans[2], frozen.spans[4]]


def test_a_plan_file_is_a_parquet_of_its_spans(tmp_path):
    shard = Shard(0, "a", "jsonl", 9, "s", "d", 3, 2, 9, False)
    (tmp_path / "plan.parquet").write_bytes(plan_file.encode_plan([shard], [Span(0, 0, 3, 2, 0, 9, digest="0f")]))
    [row] = pq.read_table(tmp_path / "plan.parquet").to_pylist()
    assert row == {"shard": 0, "start": 0, "end": 3, "rows": 2, "offset": 0, "bytes": 9, "digest": "0f"}


def test_parquet_spans_go_by_position(tmp_path):
    path = write_parquet(tmp_path / "in.parquet", 10)
    [shard], spans = make(make_job(path, spans={"rows": 4}))
    assert spans == [Span(0, 0, 4, 4), Span(0, 4, 8, 4), Span(0, 8, 10, 2)]
    assert (shard.format, shard.rows, shard.lines) == ("parquet", 10, 10)


@pytest.mark.parametrize(("text", "cause"), [("", r"empty \(0 bytes\)"), ("\n", "no rows in it"), ("\r\n\n", "no rows in it")])
def test_an_input_without_rows_is_refused_and_plans_nothing(tmp_path, store, text, cause):
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(InputError, match=rf"^input\.path {tmp_path}/in\.jsonl: {cause}$"):
        freeze(make_job(tmp_path / "in.jsonl"), store)
    assert list(store.list("")) == []
