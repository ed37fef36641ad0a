"""feed.py without Ray: read tasks and readers. test_ray_contract.py runs an execution."""

from __future__ import annotations

import pytest

from batchgen.cluster.feed import READERS_REMOTE, TASK_SPANS, TASK_SPANS_STREAMED, group_spans, readers
from batchgen.records import Shard, Span


def shard(name: str, index: int = 0, form: str = "jsonl") -> Shard:
    return Shard(index, name, form, 1, "", "", 1, 1)


def spans(count: int, index: int = 0) -> list[Span]:
    return [Span(index, 10 * n, 10 * n + 10, 10, 0, 0) for n in range(count)]


@pytest.mark.parametrize(("name", "expected"), [("rows.jsonl", 3), ("s3://bucket/rows.jsonl", 3 * READERS_REMOTE)])
def test_a_reader_per_replica_and_more_where_a_store_makes_them_wait(name: str, expected: int) -> None:
    assert readers([shard("other.jsonl"), shard(name)], replicas=3) == expected


@pytest.mark.parametrize(
    ("name", "form", "size"),
    [
        ("a.jsonl", "jsonl", TASK_SPANS),
        ("a.jsonl.gz", "jsonl", TASK_SPANS_STREAMED),
        ("a.parquet", "parquet", TASK_SPANS_STREAMED),
    ],
)
def test_a_read_task_has_adjoining_spans_and_more_where_it_reads_what_comes_before(name: str, form: str, size: int) -> None:
    made = [group for _, group in group_spans({0: shard(name, form=form)}, spans(2 * size + 3))]
    assert [len(group) for group in made] == [size, size, 3]
    assert [span for group in made for span in group] == spans(2 * size + 3)


def test_a_read_task_ends_at_a_gap_and_at_a_shards_end() -> None:
    shards = {0: shard("a.jsonl"), 1: shard("b.jsonl", 1)}
    first, second = spans(5), spans(2, 1)
    made = [(of.name, len(group)) for of, group in group_spans(shards, [*first[:2], *first[3:], *second])]
    assert made == [("a.jsonl", 2), ("a.jsonl", 2), ("b.jsonl", 2)]
