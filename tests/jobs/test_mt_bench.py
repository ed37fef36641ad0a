"""jobs/mt-bench: FastChat's formats in and out, temperatures, references, grades and scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "jobs/mt-bench"


@pytest.fixture(scope="module")
def mt_bench(script: Any) -> Any:
    return script("../jobs/mt-bench/mt_bench.py")


@pytest.fixture(scope="module")
def questions(mt_bench: Any) -> dict[int, dict[str, Any]]:
    return {question["question_id"]: question for question in mt_bench.read(FOLDER / "questions.jsonl")}


@pytest.fixture(scope="module")
def prompts(mt_bench: Any) -> dict[str, dict[str, Any]]:
    return {prompt["name"]: prompt for prompt in mt_bench.read(FOLDER / "judge_prompts.jsonl")}


@pytest.mark.parametrize(
    ("judgment", "grade"),
    [
        ("Good. [[8]]", 8.0),
        ("[[7.5]] and [[3]]", 7.5),
        ("As in [1], [[9]]", 9.0),
        ("Rating: [6]", 6.0),
        ("eight of ten", -1.0),
        ("[[ten]] [[10]]", 10.0),
    ],
)
def test_a_grade_is_found_as_fastchat_finds_it(mt_bench: Any, judgment: str, grade: float) -> None:
    assert mt_bench.grade(judgment) == grade


def test_every_category_has_its_temperature(mt_bench: Any, questions: dict[int, dict[str, Any]]) -> None:
    temperatures = {row["category"]: row["temperature"] for row in mt_bench.question_rows(questions.values())}
    assert temperatures == {
        "writing": 0.7,
        "roleplay": 0.7,
        "stem": 0.1,
        "humanities": 0.1,
        "extraction": 0.0,
        "math": 0.0,
        "coding": 0.0,
        "reasoning": 0.0,
    }


def answered(question: int, status: str = "ok") -> dict[str, Any]:
    said = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
    messages = [{"role": role, "content": content} for role, content in said]
    return {"id": str(question), "status": status, "messages": messages, "prompt_hash": f"hash {question}"}


def test_an_answer_line_has_fastchats_keys_in_fastchats_order(mt_bench: Any) -> None:
    lines = mt_bench.answer_lines([answered(10), answered(3, "error"), answered(2)], "m", 5.0)
    first = {"question_id": 2, "answer_id": "hash 2", "model_id": "m", "choices": [{"index": 0, "turns": ["a1", "a2"]}]}
    assert json.dumps(lines) == json.dumps(
        [{**first, "tstamp": 5.0}, {**first, "question_id": 10, "answer_id": "hash 10", "tstamp": 5.0}]
    )


def test_the_judge_sees_each_turn_and_the_reference_where_the_category_has_one(
    mt_bench: Any, questions: dict[int, dict[str, Any]], prompts: dict[str, dict[str, Any]]
) -> None:
    answers = mt_bench.answer_lines([answered(1), answered(4)], "m", 5.0)
    rows = mt_bench.judge_rows(questions, answers, {4: questions[4]["reference"]}, prompts)
    assert [(row["id"], row["name"]) for row in rows] == [
        ("1-1", "single-v1"),
        ("1-2", "single-v1-multi-turn"),
        ("4-1", "single-math-v1"),
        ("4-2", "single-math-v1-multi-turn"),
    ]
    first, second, third, fourth = (row["prompt"] for row in rows)
    assert "Write a short letter" in first
    assert "Write it again for a child." not in first
    assert first.endswith("a1")
    assert "Write it again for a child." in second
    assert second.endswith("a2")
    assert "144 minus 44" not in third
    assert "12 times 12 is 144." in third
    assert "144 minus 44 is 100." in fourth


def test_a_question_that_needs_a_reference_and_has_none_is_named(
    mt_bench: Any, questions: dict[int, dict[str, Any]], prompts: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(SystemExit, match=r"question 4 \(math\) has no reference answer"):
        mt_bench.judge_rows(questions, mt_bench.answer_lines([answered(4)], "m", 5.0), {}, prompts)


def test_scores_are_means_over_all_grades_and_leave_out_missing_ones(mt_bench: Any, questions: dict[int, dict[str, Any]]) -> None:
    graded = [(1, 1, 8.0), (1, 2, 6.0), (4, 1, 10.0), (4, 2, -1.0)]
    lines = [{"question_id": question, "turn": turn, "score": score} for question, turn, score in graded]
    assert mt_bench.scores(questions, lines) == {
        "writing": (7.0, 2),
        "math": (10.0, 1),
        "turn 1": (9.0, 2),
        "turn 2": (6.0, 1),
        "overall": (8.0, 3),
    }


def test_a_file_that_says_so_already_is_not_written_again(mt_bench: Any, tmp_path: Path) -> None:
    path = mt_bench.write(tmp_path / "a/b.jsonl", [{"a": "ä"}])
    before = path.stat().st_mtime_ns
    assert mt_bench.read(mt_bench.write(path, [{"a": "ä"}])) == [{"a": "ä"}]
    assert path.stat().st_mtime_ns == before
