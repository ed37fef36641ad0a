"""How many rows a span has."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.plan import plan
from tests.support.planning import make, make_job


@pytest.mark.parametrize(
    ("estimate", "sections", "expected"),
    [
        (0, {}, 32),
        (10, {}, 32),
        (6400, {"replicas": {"max": 2}}, 200),
        (6400, {"replicas": {"max": 1}}, 800),
        (600, {"replicas": {"max": 1}}, 75),
        (10, {"replicas": {"max": 1}}, 32),
        (6400, {"replicas": {"max": 2}, "sampling": {"n": 4}}, 200),
        (10**8, {}, 2048),
        (10**9, {}, 4000),
        (10**8, {"sampling": {"n": 1024}}, 400),
        (10**6, {"sampling": {"n": 1024}}, 4),
        (10, {"sampling": {"n": 100}}, 1),
        (10**9, {"spans": {"rows": 7}}, 7),
    ],
)
def test_a_span_has_rows_for_32_to_2048_completions_unless_there_are_too_many_spans(estimate, sections, expected):
    assert plan.span_sizes(make_job("unused", **sections), estimate).most == expected


@pytest.mark.parametrize("estimate", [1, 10**5, 10**8, 10**9, 10**10])
def test_there_are_never_many_more_spans_than_the_cap(estimate):
    sizes, spans, left = plan.span_sizes(make_job("unused"), estimate), 0, estimate
    while left > 0:
        whole = max(1, (left - plan.TAIL_SHARES * sizes.pool * sizes.most) // sizes.most)
        spans, left = spans + whole, left - whole * sizes.rows(left)
    assert spans <= plan.SPANS_CAP * 1.1


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
    assert ends[1] <= plan.LEAST_COMPLETIONS
    late = [span.rows for span in spans[-12:-1]]
    assert late == sorted(late, reverse=True)


def test_a_pool_of_one_has_spans_of_one_size():
    alone, pool = (plan.span_sizes(make_job("unused", replicas={"max": most}), 6400) for most in (1, 2))
    assert {alone.rows(left) for left in (6400, 600, 1)} == {alone.most}
    assert pool.rows(1) == plan.LEAST_COMPLETIONS
