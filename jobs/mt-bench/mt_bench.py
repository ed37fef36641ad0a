"""MT-Bench in one command: answers, grades, scores. Run it again to resume.

    python jobs/mt-bench/mt_bench.py [--questions FILE] [--references FILE] [--prompts FILE] [--folder DIR] [--model-id NAME]
        [--temperatures CATEGORY=VALUE ...] [--answers KEY.PATH=VALUE ...] [--judge KEY.PATH=VALUE ...]

Reads questions, reference answers and judge prompts in FastChat's formats, and writes FastChat's model_answer and model_judgment
files, so that its tools read them. Both jobs are batchgen jobs (answers.yaml, judge.yaml); --answers and --judge override
their fields: --answers model.source=karakuri-ai/karakuri-lm-70b-chat-v0.1 engine.tensor_parallel_size=4

Temperatures by category, the extraction of a grade, references for math, reasoning and coding, and the score (the mean of
all grades of all turns; answers without a grade are left out) are FastChat's. A question's `required_temperature` wins. FastChat
grades the first two turns of a question, and so does this. All files are checked before a model is loaded.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import batchgen
from batchgen.errors import BatchgenError, TooManyErrors

HERE = Path(__file__).parent
TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("stem", "humanities"), 0.1),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
}
WITH_REFERENCE = {"math", "reasoning", "coding"}
OTHER_TEMPERATURE = 0.7  # of categories that MT-Bench does not have
GRADED_TURNS = 2
GRADES = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))


def grade(judgment: str) -> float:
    """The first grade in double brackets, else in single ones, else -1."""
    found = next((match for pattern in GRADES if (match := pattern.search(judgment))), None)
    return float(found[1]) if found else -1.0


def question_rows(questions: Iterable[dict[str, Any]], temperatures: Mapping[str, float] = TEMPERATURES) -> list[dict[str, Any]]:
    """The rows of the answers job, each with its temperature."""
    rows = []
    for question in questions:
        usual = temperatures.get(question["category"], OTHER_TEMPERATURE)
        rows.append({**question, "temperature": question.get("required_temperature", usual)})
    return rows


def answer_lines(
    answered: Iterable[dict[str, Any]], questions: dict[str, dict[str, Any]], model_id: str, now: float
) -> list[dict[str, Any]]:
    """FastChat's model_answer lines of the answers job's rows, in order of the questions; failed rows are left out."""
    lines = []
    for row in answered:
        if row["status"] == "ok":
            said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
            lines.append(
                {
                    "question_id": questions[row["id"]]["question_id"],
                    "answer_id": row["prompt_hash"],
                    "model_id": model_id,
                    "choices": [{"index": 0, "turns": said}],
                    "tstamp": now,
                }
            )
    order = {question["question_id"]: number for number, question in enumerate(questions.values())}
    return sorted(lines, key=lambda line: order[line["question_id"]])


def judge_rows(
    questions: dict[str, dict[str, Any]],
    answers: Iterable[dict[str, Any]],
    references: dict[str, list[str]],
    prompts: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """The rows of the judge job: one for each graded turn of each answer. Raises ValueError, which names what is missing."""
    made = []
    for answer in answers:
        question, said = questions[str(answer["question_id"])], answer["choices"][0]["turns"]
        for turn in range(1, min(GRADED_TURNS, len(question["turns"])) + 1):
            where = f"question {answer['question_id']} ({question['category']}), turn {turn}"
            name = "single-math-v1" if question["category"] in WITH_REFERENCE else "single-v1"
            values = {"question": question["turns"][0], "answer": said[0]}
            if turn > 1:
                name += "-multi-turn"
                values = {f"question_{n}": text for n, text in enumerate(question["turns"], 1)}
                values |= {f"answer_{n}": text for n, text in enumerate(said, 1)}
            if question["category"] in WITH_REFERENCE:
                reference = references.get(str(answer["question_id"]), [])
                if len(reference) < turn:
                    raise ValueError(f"{where}: no reference answer")
                values |= {f"ref_answer_{n}": text for n, text in enumerate(reference, 1)}
            if (prompt := prompts.get(name)) is None:
                raise ValueError(f"{where}: the judge prompts have no {name}")
            try:
                filled = prompt["prompt_template"].format(**values)
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"{where}: judge prompt {name} cannot be filled in: {error!r}") from None
            made.append(
                {"id": f"{answer['question_id']}-{turn}", "name": name, "system": prompt["system_prompt"], "prompt": filled}
            )
    return made


def read_questions(path: Path) -> dict[str, dict[str, Any]]:
    """FastChat's questions by the text of their id. Raises ValueError, which names the question at fault."""
    questions: dict[str, dict[str, Any]] = {}
    for question in read(path, "question_id", "turns"):
        name, turns = str(question["question_id"]), question["turns"]
        if name in questions:
            raise ValueError(f"{path}: question_id {name} is there twice")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
            raise ValueError(f"{path}: question {name}: turns must be a list of at least one text")
        questions[name] = {"category": "general", **question}
    return questions


def check(questions: dict[str, dict[str, Any]], references: dict[str, list[str]], prompts: dict[str, dict[str, Any]]) -> None:
    """Make the judge's rows of answers that nobody gave yet. Raises ValueError."""
    asked = questions.items()
    judge_rows(
        questions, [{"question_id": name, "choices": [{"turns": one["turns"]}]} for name, one in asked], references, prompts
    )


def judgment_lines(
    judged: Iterable[dict[str, Any]], questions: dict[str, dict[str, Any]], model_id: str, now: float
) -> list[dict[str, Any]]:
    """FastChat's model_judgment lines of the judge job's rows; failed rows are left out."""
    lines = []
    for row in judged:
        if row["status"] == "ok":
            question, _, turn = row["id"].rpartition("-")
            lines.append(
                {
                    "question_id": questions[question]["question_id"],
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


def scores(questions: dict[str, dict[str, Any]], judgments: Iterable[dict[str, Any]]) -> dict[str, tuple[float, int]]:
    """Mean grade and number of grades by category, by turn and overall."""
    found: dict[str, list[float]] = {}
    for line in judgments:
        if line["score"] != -1:
            for group in (questions[str(line["question_id"])]["category"], f"turn {line['turn']}", "overall"):
                found.setdefault(group, []).append(line["score"])
    last = ["turn 1", "turn 2", "overall"]
    names = [name for name in TEMPERATURES if name in found] + sorted(found.keys() - TEMPERATURES.keys() - set(last))
    return {name: (mean(found[name]), len(found[name])) for name in [*names, *last] if name in found}


def read(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file. Raises ValueError for a line that is none or lacks a key, OSError."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):  # a text may hold other line separators
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
            if not isinstance(value, dict) or not set(keys) <= value.keys():
                raise ValueError(f"{path}:{number}: expected an object with {', '.join(keys)}")
            found.append(value)
    return found


def write(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    """Write a JSONL file, unless it says so already: a job's input must not seem to change."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def temperature(text: str) -> tuple[str, float]:
    category, _, value = text.rpartition("=")
    return category, float(value)


def job_of(name: str, source: Path, output: Path, overrides: list[str]) -> batchgen.Job:
    return batchgen.Job.load(HERE / f"{name}.yaml", [f"input.path={source}", f"output.path={output}", *overrides])


def rows_of(job: batchgen.Job) -> list[dict[str, Any]]:
    return list(batchgen.Output.open(job.output.path).rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, default=HERE / "questions.jsonl", help="FastChat's question.jsonl")
    parser.add_argument("--references", type=Path, help="FastChat's reference_answer file; default: `reference` of the questions")
    parser.add_argument("--prompts", type=Path, default=HERE / "judge_prompts.jsonl", help="FastChat's judge_prompts.jsonl")
    parser.add_argument("--folder", type=Path, default=Path("outputs/mt-bench"), help="where everything goes")
    parser.add_argument("--model-id", default="tiny-karakuri", help="the model's name in FastChat's files")
    what = "temperatures of categories, in place of MT-Bench's"
    parser.add_argument("--temperatures", nargs="*", default=[], type=temperature, metavar="CATEGORY=VALUE", help=what)
    parser.add_argument("--answers", nargs="*", default=[], metavar="KEY.PATH=VALUE", help="fields of answers.yaml")
    parser.add_argument("--judge", nargs="*", default=[], metavar="KEY.PATH=VALUE", help="fields of judge.yaml")
    options = parser.parse_args()
    folder, now = options.folder, time.time()

    questions = read_questions(options.questions)
    references = {name: question["reference"] for name, question in questions.items() if question.get("reference")}
    if options.references:
        read_references = read(options.references, "question_id", "choices")
        references = {str(line["question_id"]): line["choices"][0]["turns"] for line in read_references}
    prompts = {prompt["name"]: prompt for prompt in read(options.prompts, "name", "system_prompt", "prompt_template")}
    check(questions, references, prompts)
    answers_job = job_of("answers", folder / "questions.jsonl", folder / "answers", options.answers)
    judge_job = job_of("judge", folder / "judge.jsonl", folder / "judgments", options.judge)

    write(folder / "questions.jsonl", question_rows(questions.values(), TEMPERATURES | dict(options.temperatures)))
    batchgen.run(answers_job)
    answers = answer_lines(rows_of(answers_job), questions, options.model_id, now)
    write(folder / "model_answer" / f"{options.model_id}.jsonl", answers)

    write(folder / "judge.jsonl", judge_rows(questions, answers, references, prompts))
    too_many: TooManyErrors | None = None
    try:
        batchgen.run(judge_job)
    except TooManyErrors as error:
        too_many = error
    judged = rows_of(judge_job)
    judgments = judgment_lines(judged, questions, options.model_id, now)
    write(folder / "model_judgment" / "single.jsonl", judgments)

    found = scores(questions, judgments)
    print(f"\n| {options.model_id} | score | grades |\n|---|---|---|")
    for group, (score, grades) in found.items():
        print(f"| {group} | {score:.2f} | {grades} |")
    turns = sum(min(GRADED_TURNS, len(question["turns"])) for question in questions.values())
    if missing := turns - found.get("overall", (0, 0))[1]:
        failed = sum(row["status"] == "error" for row in judged)
        print(f"{missing} of {turns} turns have no grade; the judge failed on {failed}.")
    if too_many is not None:
        raise too_many


if __name__ == "__main__":
    try:
        main()
    except BatchgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
