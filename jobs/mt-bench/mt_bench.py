"""MT-Bench in one command: answers, grades, scores. Run it again to resume.

    python jobs/mt-bench/mt_bench.py [--questions FILE] [--references FILE] [--prompts FILE] [--folder DIR] [--model-id NAME]
        [--answers KEY.PATH=VALUE ...] [--judge KEY.PATH=VALUE ...]

Reads questions, reference answers and judge prompts in FastChat's formats, and writes FastChat's model_answer and model_judgment
files, so that its tools read them. Both jobs are batchgen jobs (answers.yaml, judge.yaml); --answers and --judge override
their fields: --answers model.source=karakuri-ai/karakuri-lm-70b-chat-v0.1 engine.tensor_parallel_size=4

Temperatures by category, the extraction of a grade, references for math, reasoning and coding, and the score (the mean of all
grades of all turns; answers without a grade are left out) are FastChat's.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import batchgen
from batchgen.errors import BatchgenError

HERE = Path(__file__).parent
TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("stem", "humanities"), 0.1),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
}
WITH_REFERENCE = {"math", "reasoning", "coding"}
GRADES = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


def grade(judgment: str) -> float:
    """The first grade in double brackets, else in single ones, else -1."""
    found = next((match for pattern in GRADES if (match := pattern.search(judgment))), None)
    return float(found[1]) if found else -1.0


def question_rows(questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the answers job. Categories that MT-Bench does not have are asked at temperature 0.7."""
    return [{**question, "temperature": TEMPERATURES.get(question["category"], 0.7)} for question in questions]


def answer_lines(answered: Iterable[dict[str, Any]], model_id: str, now: float) -> list[dict[str, Any]]:
    """FastChat's model_answer lines of the answers job's rows, in order of the questions; failed rows are left out."""
    lines = []
    for row in answered:
        if row["status"] == "ok":
            said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
            lines.append(
                {
                    "question_id": int(row["id"]),
                    "answer_id": row["prompt_hash"],
                    "model_id": model_id,
                    "choices": [{"index": 0, "turns": said}],
                    "tstamp": now,
                }
            )
    return sorted(lines, key=lambda line: line["question_id"])


def judge_rows(
    questions: dict[int, dict[str, Any]],
    answers: Iterable[dict[str, Any]],
    references: dict[int, list[str]],
    prompts: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """The rows of the judge job: one for each turn of each answer."""
    made = []
    for answer in answers:
        question, said = questions[answer["question_id"]], answer["choices"][0]["turns"]
        reference = references.get(answer["question_id"])
        for turn in (1, 2):
            name = "single-math-v1" if question["category"] in WITH_REFERENCE else "single-v1"
            values = {"question": question["turns"][0], "answer": said[0]}
            if turn == 2:
                name += "-multi-turn"
                values = {f"question_{n}": text for n, text in enumerate(question["turns"], 1)}
                values |= {f"answer_{n}": text for n, text in enumerate(said, 1)}
            if question["category"] in WITH_REFERENCE:
                if reference is None:
                    raise SystemExit(f"question {answer['question_id']} ({question['category']}) has no reference answer")
                values |= {f"ref_answer_{n + 1}": text for n, text in enumerate(reference)}
            prompt = prompts[name]
            made.append(
                {
                    "id": f"{answer['question_id']}-{turn}",
                    "name": name,
                    "system": prompt["system_prompt"],
                    "prompt": prompt["prompt_template"].format(**values),
                }
            )
    return made


def judgment_lines(judged: Iterable[dict[str, Any]], model_id: str, now: float) -> list[dict[str, Any]]:
    """FastChat's model_judgment lines of the judge job's rows; failed rows are left out."""
    lines = []
    for row in judged:
        if row["status"] == "ok":
            question, _, turn = row["id"].partition("-")
            lines.append(
                {
                    "question_id": int(question),
                    "model": model_id,
                    "judge": [row["model"], row["name"]],
                    "user_prompt": row["prompt"],
                    "judgment": row["response"],
                    "score": grade(row["response"]),
                    "turn": int(turn),
                    "tstamp": now,
                }
            )
    return lines


def scores(questions: dict[int, dict[str, Any]], judgments: Iterable[dict[str, Any]]) -> dict[str, tuple[float, int]]:
    """Mean grade and number of grades by category, by turn and overall."""
    found: dict[str, list[float]] = {}
    for line in judgments:
        if line["score"] != -1:
            for group in (questions[line["question_id"]]["category"], f"turn {line['turn']}", "overall"):
                found.setdefault(group, []).append(line["score"])
    last = ["turn 1", "turn 2", "overall"]
    names = [name for name in TEMPERATURES if name in found] + sorted(found.keys() - TEMPERATURES.keys() - set(last))
    return {name: (mean(found[name]), len(found[name])) for name in [*names, *last] if name in found}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    """Write a JSONL file, unless it says so already: a job's input must not seem to change."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def run(name: str, source: Path, output: Path, overrides: list[str]) -> list[dict[str, Any]]:
    job = batchgen.Job.load(HERE / f"{name}.yaml", [f"input.path={source}", f"output.path={output}", *overrides])
    batchgen.run(job)
    return list(batchgen.Output.open(str(output)).rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, default=HERE / "questions.jsonl", help="FastChat's question.jsonl")
    parser.add_argument("--references", type=Path, help="FastChat's reference_answer file; default: `reference` of the questions")
    parser.add_argument("--prompts", type=Path, default=HERE / "judge_prompts.jsonl", help="FastChat's judge_prompts.jsonl")
    parser.add_argument("--folder", type=Path, default=Path("outputs/mt-bench"), help="where everything goes")
    parser.add_argument("--model-id", default="tiny-karakuri", help="the model's name in FastChat's files")
    parser.add_argument("--answers", nargs="*", default=[], metavar="KEY.PATH=VALUE", help="fields of answers.yaml")
    parser.add_argument("--judge", nargs="*", default=[], metavar="KEY.PATH=VALUE", help="fields of judge.yaml")
    options = parser.parse_args()
    folder, now = options.folder, time.time()

    questions = {question["question_id"]: question for question in read(options.questions)}
    references = {number: question["reference"] for number, question in questions.items() if question.get("reference")}
    if options.references:
        references = {line["question_id"]: line["choices"][0]["turns"] for line in read(options.references)}
    source = write(folder / "questions.jsonl", question_rows(questions.values()))
    answers = answer_lines(run("answers", source, folder / "answers", options.answers), options.model_id, now)
    write(folder / "model_answer" / f"{options.model_id}.jsonl", answers)

    prompts = {prompt["name"]: prompt for prompt in read(options.prompts)}
    source = write(folder / "judge.jsonl", judge_rows(questions, answers, references, prompts))
    judgments = judgment_lines(run("judge", source, folder / "judgments", options.judge), options.model_id, now)
    write(folder / "model_judgment" / "single.jsonl", judgments)

    found = scores(questions, judgments)
    print(f"\n| {options.model_id} | score | grades |\n|---|---|---|")
    for group, (score, grades) in found.items():
        print(f"| {group} | {score:.2f} | {grades} |")
    missing = 2 * len(questions) - found.get("overall", (0, 0))[1]
    if missing:
        print(f"{missing} turns have no grade.")


if __name__ == "__main__":
    try:
        main()
    except BatchgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
