"""sampling.best_of: more answers than are kept, the likeliest of them kept, best first."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchgen.engines.base import Request
from batchgen.errors import BadRow
from batchgen.output.output import Output
from batchgen.records import Answer
from tests.support.finished import Finished as Whole
from tests.support.replicas import Backwards, answered, blocks, part_bytes, prepared, ran, replica

Said = tuple[str, float | None]
PARSE = {"regex": r"score (?P<score>\d)", "columns": {"score": "integer"}}


class Scripted(Backwards):
    """Answers the requests one after the other with the texts and logprobs of `script`; remembers what it was asked with.

    An answer has a token a word, and is cut where it ends in `...`. An entry may be an error instead.
    """

    def __init__(self, *script: list[Said] | BadRow) -> None:
        super().__init__(1)
        self.script = list(script)
        self.asked: list[dict[str, Any]] = []
        self.texts: list[str] = []

    async def generate(self, request: Request) -> list[Answer]:
        self.asked.append(request.sampling)
        self.texts.append(bytes(request.token_ids).decode())
        answers = self.script.pop(0)
        if isinstance(answers, BadRow):
            raise answers
        return [
            Answer(text, len(text.split()), "length" if text.endswith("...") else "stop", logprob) for text, logprob in answers
        ]


def best(folder: Path, engine: Scripted, row: dict[str, Any] | None = None, **fields: Any) -> list[dict[str, Any]]:
    made = prepared(folder, [row or {"prompt": "a"}], **fields)
    receipt = ran(replica(made, engine), blocks(made)[0])
    assert engine.script == [], "everything was asked for"
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(part_bytes(made, receipt))).to_pylist()
    assert [row["sample"] for row in rows] == list(range(len(rows)))
    return rows


def scores(rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(row["response"], row["cumulative_logprob"]) for row in rows]


def test_the_likeliest_are_kept_best_first(tmp_path: Path) -> None:
    engine = Scripted([("worst one of all", -9.0), ("second", -2.0), ("the first", -1.0), ("third", -3.0)])
    rows = best(tmp_path, engine, sampling={"n": 2, "best_of": 4})
    assert scores(rows) == [("the first", -1.0), ("second", -2.0)]
    assert [row["completion_tokens"] for row in rows] == [2, 1]
    assert [(asked.n, asked.best_of, asked.logprobs) for asked in engine.asked] == [(4, None, 0)]
    assert {(row["sampling"]["n"], row["sampling"]["best_of"], row["sampling"]["logprobs"]) for row in rows} == {(2, 4, 0)}


def test_ties_keep_their_order_and_what_has_no_logprob_comes_last(tmp_path: Path) -> None:
    engine = Scripted([("unknown", None), ("a", -1.0), ("b", -1.0), ("c", -1.0)])
    assert scores(best(tmp_path, engine, sampling={"n": 4, "best_of": 4})) == [
        ("a", -1.0),
        ("b", -1.0),
        ("c", -1.0),
        ("unknown", None),
    ]


def test_best_of_the_row_wins_over_none_of_the_job(tmp_path: Path) -> None:
    engine = Scripted([("a", -2.0), ("b", -1.0)])
    assert scores(best(tmp_path, engine, {"prompt": "a", "sampling": {"best_of": 2}})) == [("b", -1.0)]


def test_of_several_turns_the_whole_conversation_is_chosen(tmp_path: Path) -> None:
    engine = Scripted([("begins well", -1.0), ("begins badly", -2.0)], [("ends badly", -5.0)], [("ends well", -0.5)])
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "t"}
    [row] = best(tmp_path, engine, {"t": ["one", "two"]}, input=source, sampling={"best_of": 2, "seed": 7})
    assert [message["content"] for message in row["messages"]] == ["one", "begins badly", "two", "ends well"]
    assert (row["cumulative_logprob"], row["completion_tokens"]) == (-2.5, 4)
    assert [asked.n for asked in engine.asked] == [2, 1, 1]
    assert [asked.seed - engine.asked[0].seed for asked in engine.asked] == [0, 0, 1], "each candidate has its seed"


def test_candidates_whose_conversation_failed_come_last(tmp_path: Path) -> None:
    engine = Scripted([("fine", -9.0), ("refused", -1.0)], [("and well", -9.0)], BadRow("engine_rejected", "no"))
    source = {"path": str(tmp_path / "in.jsonl"), "turns": "t"}
    rows = best(tmp_path, engine, {"t": ["one", "two"]}, input=source, sampling={"n": 2, "best_of": 2}, limits={"errors": 1})
    assert [(row["response"], row["error_code"]) for row in rows] == [("and well", None), (None, "engine_rejected")]


def test_those_that_do_not_parse_only_fill_up(tmp_path: Path) -> None:
    answers: list[Said] = [("hm", -0.5), ("score 1", -3.0), ("well", -0.25), ("score 2", -2.0)]
    for n, kept in ((2, ["score 2", "score 1"]), (4, ["score 2", "score 1", "well", "hm"])):
        (tmp_path / str(n)).mkdir()
        rows = best(tmp_path / str(n), Scripted(answers), parse=PARSE, sampling={"n": n, "best_of": 4})
        assert [row["response"] for row in rows] == kept
        assert [row["error_code"] for row in rows] == [None, None, "parse", "parse"][:n]


def test_a_prompt_that_the_engine_refuses_fails_once_for_each_sample(tmp_path: Path) -> None:
    rows = best(tmp_path, Scripted(BadRow("engine_rejected", "no")), sampling={"n": 2, "best_of": 8})
    assert [row["error_code"] for row in rows] == ["engine_rejected"] * 2


def test_a_sample_that_is_tried_again_is_the_one_at_its_rank_among_new_candidates(tmp_path: Path) -> None:
    engine = Scripted(
        [("score 1", -1.0), ("no", -2.0), ("nor", -3.0)],
        [("score 4", -4.0), ("score 5", -5.0), ("score 3", -3.0)],
    )
    rows = best(tmp_path, engine, parse=PARSE, errors={"parse": {"retry": 1}}, sampling={"n": 2, "best_of": 3})
    assert scores(rows) == [("score 1", -1.0), ("score 4", -4.0)]
    assert [row["attempt"] for row in rows] == [1, 2]
    assert [asked.n for asked in engine.asked] == [3, 3]
    assert rows[1]["sampling"]["seed"] == engine.asked[1].seed != engine.asked[0].seed
    assert {(row["sampling"]["n"], row["sampling"]["best_of"]) for row in rows} == {(2, 3)}


def test_a_kept_answer_that_was_cut_is_tried_again_and_one_that_is_not_kept_is_not(tmp_path: Path) -> None:
    engine = Scripted([("whole", -1.0), ("cut...", -2.0), ("cut too...", -3.0)], [("b", -5.0), ("a", -4.0), ("c", -6.0)])
    errors = {"truncated": {"retry": 1, "sampling": {"max_tokens": 99}}}
    rows = best(tmp_path, engine, errors=errors, sampling={"n": 2, "best_of": 3})
    assert scores(rows) == [("whole", -1.0), ("b", -5.0)]
    assert [asked.max_tokens for asked in engine.asked][1] == rows[1]["sampling"]["max_tokens"] == 99


def test_after_a_timeout_the_candidates_are_drawn_with_the_rows_seed(tmp_path: Path) -> None:
    drawn: list[Said] = [("b", -2.0), ("a", -1.0)]
    engine = Scripted(BadRow("timeout", "slow"), drawn, drawn)
    rows = best(tmp_path, engine, errors={"timeout": {"retry": 1}}, sampling={"n": 2, "best_of": 2})
    assert scores(rows) == [("a", -1.0), ("b", -2.0)]
    assert len({asked.seed for asked in engine.asked}) == 1


def test_echo_keeps_its_shortest_answers(tmp_path: Path) -> None:
    found = {}
    for best_of in (None, 8):
        rows, receipt = answered(
            tmp_path,
            [{"prompt": "some words to choose from", "sampling": {"seed": 5}}],
            output={"path": str(tmp_path / str(best_of))},
            sampling={"n": 8 if best_of is None else 3, "best_of": best_of, "logprobs": 0},
        )
        found[best_of] = [row["response"] for row in rows]
        assert receipt.counts.completion_tokens == sum(row["completion_tokens"] for row in rows)
    assert found[8] == sorted(found[None], key=lambda text: len(text.split()))[:3]


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., Whole]:
    lines = [json.dumps({"prompt": f"row {n}" + (" forbidden" if n % 2 else "")}) for n in range(6)]
    return lambda **fields: Whole(tmp_path, lines, sampling={"n": 2, "best_of": 4}, **fields)


def test_a_retry_draws_the_candidates_again_and_takes_the_sample_at_its_rank(output: Callable[..., Whole]) -> None:
    made = output()
    assert len(made.rows(status="error")) == 6
    made.mend()
    assert (made.retry(), made.run()) == (6, 6)
    assert Output.open(made.store).verify().problems == []
    again = {(row["row"], row["sample"]): row for row in made.rows(status="ok") if row["attempt"] == 2}
    assert sorted(again) == [(n, sample) for n in (1, 3, 5) for sample in (0, 1)]
    for n in (1, 3, 5):
        first, second = (again[n, sample] for sample in (0, 1))
        assert first["cumulative_logprob"] >= second["cumulative_logprob"]
        assert first["response"] != second["response"]


def test_what_is_tried_again_within_a_run_is_proven_too(output: Callable[..., Whole]) -> None:
    made = output(
        engine={"kind": "echo", "options": {"length": {"distribution": "constant", "mean": 3}}},
        parse={"regex": r"(?P<a>zzz)"},
        errors={"parse": {"retry": 1}},
    )
    assert {(row["error_code"], row["attempt"], row["sampling"]["n"]) for row in made.rows()} == {("parse", 2, 2)}
    assert Output.open(made.store).verify().problems == []
