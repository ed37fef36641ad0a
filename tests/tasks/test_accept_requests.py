"""Rules and further requests: a judge is asked, a rejected answer is tried again, each sample or candidate stands by itself."""

from __future__ import annotations

from pathlib import Path

from batchgen.errors import BadRow
from tests.support.replicas import Scripted, rows_of


def test_a_judge_gets_a_prompt_of_the_row_and_its_answer(tmp_path: Path) -> None:
    template = "JUDGE {{ gold }}: {{ response }} ({{ finish_reason }}, {{ messages[0].content }})"
    engine = Scripted({"q0": ["a b"], "q1": ["c"]}, lambda said: "well: YES" if "gold: a b" in said else "no")
    rows = [{"prompt": "q0", "gold": "gold"}, {"prompt": "q1", "gold": "gold"}]
    judge = {"template": template, "regex": "YES", "sampling": {"max_tokens": 3}}
    found = rows_of(tmp_path, engine, rows, accept={"judge": judge})
    assert [row["error_detail"] for row in found] == [
        None,
        f"{tmp_path}/in.jsonl:2: accept.judge.regex matches nowhere in its answer: 'no'",
    ]
    assert [row["completion_tokens"] for row in found] == [2, 1]
    texts = {bytes(request.token_ids).decode() for request in engine.judged}
    assert any("JUDGE gold: a b (stop, q0)" in text for text in texts)
    assert {(request.sampling.temperature, request.sampling.max_tokens, request.sampling.n) for request in engine.judged} == {
        (0.0, 3, 1)
    }


def test_a_judges_json_has_to_satisfy_its_schema(tmp_path: Path) -> None:
    said = {"JUDGE a": '{"good": true}', "JUDGE b": '{"good": 0}', "JUDGE c": "?"}
    answers = {"q0": ["a"], "q1": ["b"], "q2": ["c"]}
    engine = Scripted(answers, lambda text: next(reply for asked, reply in said.items() if asked in text))
    judge = {"template": "JUDGE {{ response }}", "schema": {"properties": {"good": {"const": True}}, "required": ["good"]}}
    found = rows_of(tmp_path, engine, accept={"judge": judge})
    assert [row["error_detail"] and row["error_detail"].partition(": ")[2] for row in found] == [
        None,
        """accept.judge.schema: good: True was expected: '{"good": 0}'""",
        "accept.judge.schema: its answer is no JSON: unexpected character, expected a JSON value: line 1 column 1 (char 0): '?'",
    ]


def test_a_judge_that_cannot_answer_is_the_rows_error(tmp_path: Path) -> None:
    def refuse(said: str) -> str:
        raise BadRow("engine_rejected", "too rude")

    engine = Scripted({"q0": ["a"], "q1": ["b"]}, refuse)
    rows = [{"prompt": "q0", "gold": "x"}, {"prompt": "q1", "gold": None}]
    found = rows_of(tmp_path, engine, rows, accept={"judge": {"template": "JUDGE {{ gold }}", "regex": "y"}})
    assert [(row["error_code"], row["error_detail"].partition(": ")[2], row["response"]) for row in found] == [
        ("rejected", "accept.judge did not answer: engine_rejected: too rude", "a"),
        (
            "rejected",
            "accept.judge did not answer: render: accept.judge.template: it prints null (of gold): "
            'give it a default, {{ gold | default("...") }}, or leave such rows out',
            "b",
        ),
    ]


def test_all_rules_must_hold_and_the_judge_is_asked_last(tmp_path: Path) -> None:
    engine = Scripted({"q0": ["a 1"], "q1": ["b 1"], "q2": ["a 22"]})
    accept = {"regex": "a", "sql": "length(response) = 3", "judge": {"template": "JUDGE", "regex": "yes"}}
    found = rows_of(tmp_path, engine, accept=accept)
    assert [row["status"] for row in found] == ["ok", "error", "error"]
    assert len(engine.judged) == 1


def test_an_answer_that_is_not_accepted_is_tried_again_with_a_new_seed_and_the_attempts_are_kept(tmp_path: Path) -> None:
    engine = Scripted({"q0": ["bad", "worse", "good"], "q1": ["bad"], "q2": ["good"]})
    found = rows_of(
        tmp_path,
        engine,
        accept={"regex": "good"},
        errors={"rejected": {"retry": 2, "sampling": {"temperature": 0.5}}},
    )
    detail = f"{tmp_path}/in.jsonl:1: accept.regex matches nowhere in the answer"
    attempts = [
        {"response": text, "finish_reason": "stop", "error_code": "rejected", "error_detail": detail, "completion_tokens": 1}
        for text in ("bad", "worse")
    ]
    assert [(row["status"], row["response"], row["attempt"]) for row in found] == [
        ("ok", "good", 3),
        ("error", "bad", 3),
        ("ok", "good", 1),
    ]
    assert found[0]["attempts"] == attempts
    assert [attempt["response"] for attempt in found[1]["attempts"]] == ["bad", "bad"]
    assert found[2]["attempts"] == []
    of_first = [request.sampling for request in engine.requests if "q0" in bytes(request.token_ids).decode()]
    assert len({sampling.seed for sampling in of_first}) == 3
    assert [sampling.temperature for sampling in of_first] == [1.0, 0.5, 0.5]
    assert found[0]["sampling"]["temperature"] == 0.5


def test_an_answer_that_was_cut_and_is_not_accepted_follows_the_policy_for_cut_ones_first(tmp_path: Path) -> None:
    engine = Scripted({"q0": ["bad...", "bad", "good"]})
    errors = {"truncated": {"retry": 1, "sampling": {"max_tokens": 99}}, "rejected": {"retry": 2}}
    [row] = rows_of(tmp_path, engine, accept={"regex": "good"}, errors=errors)
    assert (row["status"], row["attempt"]) == ("ok", 3)
    assert [one.sampling.max_tokens for one in engine.requests][1] == 99


def test_each_sample_is_judged_by_itself(tmp_path: Path) -> None:
    engine = Scripted({"q0": ["good 0", "bad 1", "good 2"]})
    found = rows_of(tmp_path, engine, accept={"regex": "good"}, sampling={"n": 3})
    assert [row["status"] for row in found] == ["ok", "error", "ok"]


def test_of_candidates_the_accepted_come_first(tmp_path: Path) -> None:
    engine = Scripted({"q0": ["bad 0", "bad 1", "good 2", "good 3"]})
    found = rows_of(tmp_path, engine, accept={"regex": "good"}, sampling={"n": 3, "best_of": 4})
    assert [row["response"] for row in found] == ["good 2", "good 3", "bad 0"]
    assert [row["status"] for row in found] == ["ok", "ok", "error"]
