"""feed.py's bound on working ahead; the execution itself is run by tests/e2e."""

import time
from types import SimpleNamespace

import pytest
import ray.data

from batchgen.cluster.feed import AHEAD_BYTES, READERS_REMOTE, Feed
from batchgen.records import Shard


class Blocks:
    """In the place of a dataset: bundles of one block of `size` bytes; `made` counts them."""

    def __init__(self, blocks: int, size: int) -> None:
        self.blocks, self.size, self.made = blocks, size, 0
        self.context = SimpleNamespace(execution_options=SimpleNamespace())

    def iter_internal_ref_bundles(self):
        for number in range(self.blocks):
            self.made += 1
            entry = SimpleNamespace(ref=number, metadata=SimpleNamespace(size_bytes=self.size))
            yield SimpleNamespace(blocks=[entry])


def feed_of(monkeypatch: pytest.MonkeyPatch, blocks: Blocks) -> Feed:
    monkeypatch.setattr(ray.data, "read_datasource", lambda *_, **__: blocks)
    return Feed(None, [], [], replicas=1)


@pytest.mark.parametrize(("name", "readers"), [("rows.jsonl", 3), ("s3://bucket/rows.jsonl", 3 * READERS_REMOTE)])
def test_a_reader_per_replica_and_more_where_a_store_makes_them_wait(monkeypatch, name, readers):
    asked = []
    monkeypatch.setattr(ray.data, "read_datasource", lambda *_, **options: asked.append(options) or Blocks(0, 0))
    shard = Shard(0, name, "jsonl", 1, "", "", 1, 1)
    Feed(None, [shard], [], replicas=3).stop()
    assert [options["concurrency"] for options in asked] == [readers]


def until(condition) -> None:
    patience = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_small_blocks_are_all_taken_before_a_replica_asks(monkeypatch):
    blocks = Blocks(100, 1)
    feed = feed_of(monkeypatch, blocks)
    until(lambda: not feed._thread.is_alive())
    assert [feed.next() for _ in range(102)] == [*range(100), Feed.END, None]


def test_large_blocks_are_held_back_and_go_on_one_by_one(monkeypatch):
    blocks = Blocks(10, AHEAD_BYTES * 2 // 5)
    feed = feed_of(monkeypatch, blocks)
    until(lambda: blocks.made == 3)
    time.sleep(0.1)
    assert (blocks.made, len(feed._blocks)) == (3, 2), "two are held, the third waits"
    assert feed.next() == 0
    until(lambda: blocks.made == 4)
    feed.stop()
    assert not feed._thread.is_alive()
    assert feed.next() is None


def test_the_executions_error_is_raised_where_blocks_are_taken(monkeypatch):
    blocks = Blocks(1, 1)
    monkeypatch.setattr(blocks, "iter_internal_ref_bundles", lambda: iter([None]))
    feed = feed_of(monkeypatch, blocks)
    until(lambda: not feed._thread.is_alive())
    with pytest.raises(AttributeError):
        feed.next()
