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
def questions(mt_bench: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = mt_bench.read_questions(FOLDER / "questions.jsonl")
    return found


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


def test_every_category_has_its_temperature(mt_bench: Any, questions: dict[str, dict[str, Any]]) -> None:
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
    asked = {str(number): {"question_id": number} for number in (2, 3, 10)}
    lines = mt_bench.answer_lines([answered(10), answered(3, "error"), answered(2)], asked, "m", 5.0)
    first = {"question_id": 2, "answer_id": "hash 2", "model_id": "m", "choices": [{"index": 0, "turns": ["a1", "a2"]}]}
    assert json.dumps(lines) == json.dumps(
        [{**first, "tstamp": 5.0}, {**first, "question_id": 10, "answer_id": "hash 10", "tstamp": 5.0}]
    )


def test_the_judge_sees_each_turn_and_the_reference_where_the_category_has_one(
    mt_bench: Any, questions: dict[str, dict[str, Any]], prompts: dict[str, dict[str, Any]]
) -> None:
    answers = mt_bench.answer_lines([answered(1), answered(4)], questions, "m", 5.0)
    rows = mt_bench.judge_rows(questions, answers, {"4": questions["4"]["reference"]}, prompts)
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
    mt_bench: Any, questions: dict[str, dict[str, Any]], prompts: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(ValueError, match=r"question 4 \(math\), turn 1: no reference answer"):
        mt_bench.check({"4": questions["4"]}, {}, prompts)
    with pytest.raises(ValueError, match=r"question 4 \(math\), turn 2: no reference answer"):
        mt_bench.check({"4": questions["4"]}, {"4": ["one"]}, prompts)


def test_scores_are_means_over_all_grades_and_leave_out_missing_ones(mt_bench: Any, questions: dict[str, dict[str, Any]]) -> None:
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


def asked(path: Path, *questions: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions), encoding="utf-8")
    return path


def test_questions_of_one_turn_with_text_ids_need_no_prompts_of_several_turns(
    mt_bench: Any, prompts: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    one, other = (
        {"question_id": "a-1", "turns": ["Why?\u2028And how?"]},
        {"question_id": 7, "category": "math", "turns": ["2+2?"]},
    )
    questions = mt_bench.read_questions(asked(tmp_path / "q.jsonl", one, other))
    single = {name: prompt for name, prompt in prompts.items() if "multi" not in name}
    mt_bench.check(questions, {"7": ["4"]}, single)
    rows = [{**answered(0), "id": name, "messages": answered(0)["messages"][:2]} for name in ("7", "a-1")]
    answers = mt_bench.answer_lines(rows, questions, "m", 5.0)
    assert [line["question_id"] for line in answers] == ["a-1", 7]
    judged = mt_bench.judge_rows(questions, answers, {"7": ["4"]}, single)
    assert [row["id"] for row in judged] == ["a-1-1", "7-1"]
    assert "Why?\u2028And how?" in judged[0]["prompt"]
    graded = [{**row, "status": "ok", "model": "j", "response": "[[5]]"} for row in judged]
    lines = mt_bench.judgment_lines(graded, questions, "m", 5.0)
    assert [(line["question_id"], line["turn"]) for line in lines] == [("a-1", 1), (7, 1)]
    assert mt_bench.scores(questions, lines)["overall"] == (5.0, 2)
    two = {"b": {"question_id": "b", "category": "general", "turns": ["q1", "q2"]}}
    with pytest.raises(ValueError, match=r"question b .*, turn 2: the judge prompts have no single-v1-multi-turn"):
        mt_bench.check(two, {}, single)


def test_temperatures_are_the_questions_own_then_the_callers_then_mt_benchs(mt_bench: Any) -> None:
    questions = [
        {"category": "math", "required_temperature": 0.3},
        {"category": "math"},
        {"category": "new"},
        {"category": "stem"},
    ]
    given = mt_bench.TEMPERATURES | dict(map(mt_bench.temperature, ["math=0.2", "new=1"]))
    assert [row["temperature"] for row in mt_bench.question_rows(questions, given)] == [0.3, 0.2, 1.0, 0.1]
    assert mt_bench.question_rows([{"category": "new"}])[0]["temperature"] == 0.7


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('{"question_id": 1, "turns": []}', "question 1: turns must be"),
        ('{"question_id": 1, "turns": "why?"}', "question 1: turns must be"),
        ('{"question_id": 1}', "q.jsonl:1: expected an object with question_id, turns"),
        ("[]", "q.jsonl:1: expected an object"),
        ('{"question_id": 1, "turns": ["a"]}\n{"question_id": "1", "turns": ["b"]}', "question_id 1 is there twice"),
        ('{"question_id": 1, "turns": ["a"]}\n{"quest', "q.jsonl:2: "),
    ],
)
def test_questions_that_cannot_be_asked_are_named(mt_bench: Any, tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(ValueError, match=cause):
        mt_bench.read_questions(tmp_path / "q.jsonl")


def test_a_judge_prompt_with_a_field_that_nobody_fills_is_named(mt_bench: Any, questions: dict[str, dict[str, Any]]) -> None:
    prompts = {"single-v1": {"system_prompt": "", "prompt_template": "{question} {rubric}"}}
    with pytest.raises(ValueError, match=r"question 1 \(writing\), turn 1: judge prompt single-v1 cannot be filled in: .*rubric"):
        mt_bench.check({"1": questions["1"]}, {}, prompts)
