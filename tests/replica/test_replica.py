"""The replica with the echo engine: prompts of a span in, one part out."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchgen.engines.base import Request
from batchgen.errors import EngineError
from batchgen.records import Answer, Receipt
from batchgen.records.columns import output_schema
from tests.support.replicas import Backwards, answered, blocks, part_bytes, prepared, ran, replica

KARAKURI = {"schema": "karakuri", "sweep": {"verbosity": [0, 4]}}
BAD = {"prompt": "bad", "verbosity": 9}


def keys(rows: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [(row["row"], row["variant"], row["sample"]) for row in rows]


def test_a_span_becomes_a_part_with_the_jobs_columns(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "one two", "lang": "en"}, {"prompt": "three", "lang": "ja"}], attributes=KARAKURI)
    [block] = blocks(made)
    receipt = ran(replica(made), block)
    table = pq.read_table(io.BytesIO(part_bytes(made, receipt)))
    assert table.schema.equals(output_schema(made.columns.kept, made.job.schema_names))
    assert table["lang"].to_pylist() == ["en", "en", "ja", "ja"]
    assert [row["attributes"]["verbosity"] for row in table.to_pylist()] == [0, 4, 0, 4]


@pytest.mark.parametrize("name", ["_id", "_row", "source", "conversation", "token_ids"])
def test_an_input_column_named_like_one_of_the_feeds_is_carried(tmp_path: Path, name: str) -> None:
    rows, _ = answered(tmp_path, [{"prompt": "a", name: "x"}, {"prompt": "b", name: "y"}])
    assert [row[name] for row in rows] == ["x", "y"]


def test_the_receipt_counts_what_the_part_holds(tmp_path: Path) -> None:
    rows, receipt = answered(tmp_path, [{"prompt": "one two"}, BAD, {"prompt": "three"}], attributes=KARAKURI)
    ok = [row for row in rows if row["status"] == "ok"]
    assert (receipt.created, receipt.counts.ok, receipt.counts.error, receipt.errors) == (True, 4, 2, {"input": 2})
    assert receipt.counts.prompt_tokens == sum(row["prompt_tokens"] for row in ok)
    assert receipt.counts.completion_tokens == sum(row["completion_tokens"] for row in ok)
    assert [(error.code, number) for error, number in receipt.samples] == [("input", 2)], "one of each cause"
    assert receipt.first <= receipt.last


def test_n_samples_of_a_row_are_n_different_rows_that_count_the_prompt_once(tmp_path: Path) -> None:
    rows, receipt = answered(tmp_path, [{"prompt": "some words to choose from"}], sampling={"n": 3})
    assert keys(rows) == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    assert len({row["response"] for row in rows}) == 3
    assert len({row["prompt_hash"] for row in rows}) == 1
    assert receipt.counts.prompt_tokens == rows[0]["prompt_tokens"] > 0


def test_a_rows_own_n_decides_its_samples(tmp_path: Path) -> None:
    rows, _ = answered(tmp_path, [{"prompt": "a", "sampling": {"n": 2}}, {"prompt": "b"}])
    assert keys(rows) == [(0, 0, 0), (0, 0, 1), (1, 0, 0)]


def test_rows_stand_in_input_order_though_later_ones_finish_first(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": f"row {number}"} for number in range(5)])
    worker = replica(made, Backwards(5))
    receipt = ran(worker, blocks(made)[0])
    rows = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    assert [row["response"] for row in rows] == [f"user: row {number}\n" for number in range(5)]


def test_an_error_prompt_becomes_a_row_per_variant_and_sample_and_its_neighbours_do_not_notice(tmp_path: Path) -> None:
    job = {"attributes": KARAKURI, "sampling": {"n": 2, "temperature": 0}}  # so that seeds, made of shard names, play no part
    good = [{"prompt": "some first words"}, {"prompt": "some middle words"}, {"prompt": "some last words"}]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with_bad, _ = answered(tmp_path / "a", [good[0], BAD, good[2]], **job)
    without, _ = answered(tmp_path / "b", good, **job)
    assert keys(with_bad) == keys(without) == [(r, v, s) for r in range(3) for v in range(2) for s in range(2)]
    bad = [row for row in with_bad if row["status"] == "error"]
    assert keys(bad) == [(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]
    detail = f"{tmp_path}/a/in.jsonl:2: attribute verbosity: 9 is not an integer 0..4"
    assert {(row["error_code"], row["error_detail"], row["response"]) for row in bad} == {("input", detail, None)}
    columns = ("id", "variant", "sample", "messages", "response", "prompt_hash", "prompt_tokens", "status")
    neighbours = [[[row[name] for name in columns] for row in rows if row["row"] != 1] for rows in (with_bad, without)]
    assert neighbours[0] == neighbours[1]


def test_scripted_turns_follow_the_models_own_answers(tmp_path: Path) -> None:
    rows, receipt = answered(
        tmp_path, [{"t": ["first", "second", "third"]}], input={"path": str(tmp_path / "in.jsonl"), "turns": "t"}
    )
    [row] = rows
    said = row["messages"]
    assert [message["role"] for message in said] == ["user", "assistant"] * 3
    assert [message["content"] for message in said[::2]] == ["first", "second", "third"]
    assert row["response"] == said[-1]["content"]
    assert row["completion_tokens"] == sum(len(message["content"].split()) for message in said[1::2])
    read_ = [sum(len(f"{m['role']}: {m['content']}\n".encode()) for m in said[:turn]) for turn in (1, 3, 5)]
    assert row["prompt_tokens"] == receipt.counts.prompt_tokens == sum(read_)


def test_each_sample_of_scripted_turns_has_a_conversation_of_its_own(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "t"}
    rows, _ = answered(tmp_path, [{"t": ["many words to choose from", "more"]}], input=source, sampling={"n": 2})
    assert keys(rows) == [(0, 0, 0), (0, 0, 1)]
    assert rows[0]["messages"][1] != rows[1]["messages"][1]
    assert [len(row["messages"]) for row in rows] == [4, 4]


def test_a_turn_that_no_longer_fits_makes_the_row_an_error(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "t"}
    engine = {"kind": "echo", "options": {"max_model_len": 60}}
    rows = [{"t": ["a", "long " * 12]}, {"t": ["a", "b"]}]
    rows, _ = answered(tmp_path, rows, input=source, engine=engine, sampling={"max_tokens": 2})
    assert [row["error_code"] for row in rows] == ["too_long", None]
    assert rows[0]["error_detail"].startswith(f"{tmp_path}/in.jsonl:1: the prompt has ")


def test_the_second_run_of_a_span_changes_nothing_and_answers_with_the_first_ones_counts(tmp_path: Path) -> None:
    rows = [{"prompt": "some words"}, {"prompt": "other words"}]
    first = prepared(tmp_path, rows, sampling={"max_tokens": 5, "ignore_eos": True})
    second = prepared(tmp_path, rows, sampling={"max_tokens": 9, "ignore_eos": True})
    one = ran(replica(first), blocks(first)[0])
    before = part_bytes(first, one)
    two = ran(replica(second), blocks(second)[0])
    assert (one.created, two.created) == (True, False)
    assert two.counts == one.counts
    assert two.counts.completion_tokens == 10
    assert part_bytes(first, two) == before


def test_a_prompt_that_the_engine_refuses_is_an_error_row(tmp_path: Path) -> None:
    engine = {"kind": "echo", "options": {"reject_on": "forbidden"}}
    rows, receipt = answered(tmp_path, [{"prompt": "fine"}, {"prompt": "a forbidden word"}], engine=engine)
    assert [row["status"] for row in rows] == ["ok", "error"]
    assert (rows[1]["error_code"], rows[1]["prompt_tokens"]) == ("engine_rejected", 0)
    assert rows[1]["error_detail"] == f"{tmp_path}/in.jsonl:2: echo refuses 'forbidden'"
    assert receipt.errors == {"engine_rejected": 1}


def test_an_engine_that_cannot_start_raises_its_own_message(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}], engine={"kind": "echo", "options": {"start_error": "the card is on fire"}})
    with pytest.raises(EngineError, match="the card is on fire"):
        asyncio.run(replica(made).start())


def test_start_says_how_many_sequences_run_at_once_and_how_many_workers_there_are(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}], engine={"kind": "echo", "options": {"max_num_seqs": 7}})
    assert asyncio.run(replica(made).start()) == {"capacity": 7, "workers": 1}


def test_the_engines_environment_is_set_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHGEN_TEST_ENV", "before")
    made = prepared(tmp_path, [{"prompt": "a"}], engine={"kind": "echo", "env": {"BATCHGEN_TEST_ENV": "set"}})
    replica(made)
    assert os.environ["BATCHGEN_TEST_ENV"] == "set"


class Recorder(Backwards):
    """An engine that keeps the places it was given and found half of each prompt in its cache."""

    def __init__(self) -> None:
        super().__init__(1)
        self.places: dict[str, int] = {}

    async def generate(self, request: Request) -> list[Answer]:
        text = bytes(request.token_ids).decode()
        self.places[text] = request.priority
        cached = len(request.token_ids) // 2
        return [Answer(text, request.sampling.max_tokens or 0, "length", None, cached) for _ in range(request.sampling.n)]


def test_a_longer_row_gets_a_place_before_shorter_ones_that_came_first(tmp_path: Path) -> None:
    rows = [{"prompt": "short"}, {"prompt": "long", "sampling": {"max_tokens": 500}}, {"prompt": "brief"}]
    made = prepared(tmp_path, rows, sampling={"max_tokens": 5, "ignore_eos": True})
    recorder = Recorder()
    recorder.capacity = 8
    worker = replica(made, recorder)
    receipt = ran(worker, blocks(made)[0])
    entered = sorted(recorder.places, key=recorder.places.__getitem__)
    assert [text.split()[1] for text in entered] == ["long", "short", "brief"]
    written = pq.read_table(io.BytesIO(part_bytes(made, receipt)))["response"].to_pylist()
    assert [text.split()[1] for text in written] == ["short", "long", "brief"]


def test_the_receipt_counts_cached_prompt_tokens_once_for_all_samples(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "twelve bytes", "sampling": {"n": 3}}, {"prompt": "four"}])
    recorder = Recorder()
    worker = replica(made, recorder)
    receipt = ran(worker, blocks(made)[0])
    assert receipt.counts.prompt_tokens == sum(map(len, recorder.places))
    assert receipt.counts.cached_tokens == sum(len(text) // 2 for text in recorder.places)
    assert receipt.committing > 0


def test_spans_run_side_by_side(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}, {"prompt": "b"}], spans={"rows": 1})
    worker = replica(made, Backwards(2))

    async def scenario() -> list[Receipt]:
        return await asyncio.gather(*(worker.run(block) for block in blocks(made)))

    assert [receipt.counts.ok for receipt in asyncio.run(scenario())] == [1, 1]


def test_a_span_that_is_given_to_a_replica_again_while_it_runs_there_has_one_part(tmp_path: Path) -> None:
    """The driver gives a copy up when the other one's block is lost, and feeds the span again."""
    made = prepared(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    [block] = blocks(made)
    worker = replica(made, Backwards(4))

    async def scenario() -> list[Receipt]:
        return await asyncio.gather(worker.run(block), worker.run(block, again=True))

    assert sorted(receipt.created for receipt in asyncio.run(scenario())) == [False, True]


@pytest.mark.parametrize(
    "own",
    [
        {"top_k": 2**40},
        {"min_tokens": 2**40},
        {"stop_token_ids": [2**40]},
        {"stop": ""},
    ],
)
def test_a_rows_odd_sampling_never_stops_its_span(tmp_path: Path, own: dict[str, Any]) -> None:
    engine = {"kind": "echo", "options": {"max_model_len": 100}}
    rows, _ = answered(tmp_path, [{"prompt": "a", "sampling": own}, {"prompt": "b"}], engine=engine)
    assert [row["status"] for row in rows] == ["error", "ok"]


def test_a_sample_that_grows_too_long_leaves_the_others(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "t"}
    made = prepared(tmp_path, [{"t": ["a", "b"]}], input=source, sampling={"n": 2})
    [block] = blocks(made)
    worker = replica(made, OneLongAnswer(1))
    worker.renderer.context = 100
    receipt = ran(worker, block)
    rows = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    assert [row["error_code"] for row in rows] == [None, "too_long"]


class OneLongAnswer(Backwards):
    async def generate(self, request: Request) -> list[Answer]:
        answers = ["short", "long " * 50][: request.sampling.n]
        return [Answer(answer, len(answer.split()), "stop") for answer in answers]


def test_a_committed_span_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "batchgen.replica"):
        _, receipt = answered(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    said = [(vars(record)["span"], record.getMessage()) for record in caplog.records if "committed" in record.getMessage()]
    assert [span for span, _ in said] == [receipt.span]
    assert "ok=2" in said[0][1]


def test_the_receipt_says_once_what_engines_died_of(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}])
    recorder: Any = Recorder()
    recorder.causes = ["killed\n  engine log: no memory"]
    assert ran(replica(made, recorder), blocks(made)[0]).died == ["killed\n  engine log: no memory"]
    assert recorder.causes == []
