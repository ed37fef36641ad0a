"""SteerLM's data in one command: label, generate, label again, keep. Run it again to resume.

    python jobs/steerlm/steerlm.py [--answers FILE] [--folder DIR] [--least NAME=VALUE ...]
        [--labeler KEY.PATH=VALUE ...] [--generator KEY.PATH=VALUE ...]

1. An attribute prediction model labels the answers at hand (JSONL rows with id, prompt, response) with the nine attributes.
2. The model to be trained answers every prompt again, with a combination of attributes that occurs among those labels and has
   the best quality that occurs; several answers each.
3. The same labeler labels the new answers: its input is the output of step 2. `batchgen fidelity FOLDER/new-labels-helpsteer` (or
   -oasst) then says how well the model did what it was asked for.
4. FOLDER/train.jsonl has the prompt, the new answer and its predicted attributes, of the answers that have at least the values of
   --least.

Every step is a batchgen job of this folder; --labeler and --generator override their fields:
--labeler model.source=karakuri-ai/karakuri-lm-7b-apm-v0.1
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import batchgen
from batchgen.errors import BatchgenError

HERE = Path(__file__).parent
BEST = "quality"
CHAINED = ("variant", "sample", "attributes", "completion_tokens")
"""What the labels of the new answers carry of them: which answer it is, and for `batchgen fidelity` what was asked for."""


def conversations(answers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a label job."""
    return [
        {
            "id": answer["id"],
            "messages": [
                {"role": "user", "content": answer["prompt"]},
                {"role": "assistant", "content": answer["response"]},
            ],
        }
        for answer in answers
    ]


def answer_id(row: dict[str, Any]) -> str:
    """Of an answer that a batchgen job made, and of its label: a prompt has several."""
    return f"{row['id']}-{row['variant']}-{row['sample']}"


def labelled_id(row: dict[str, Any]) -> str:
    return f"{row['id']}-{row['input_variant']}-{row['input_sample']}" if "input_sample" in row else row["id"]


def merged(*labelled: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Attributes by id, of the answers that every label job has labelled."""
    found = [{labelled_id(row): row["parsed"] for row in rows if row["status"] == "ok"} for rows in labelled]
    return {name: {k: v for one in found for k, v in one[name].items()} for name in found[0] if all(name in one for one in found)}


def combinations(labels: Iterable[dict[str, int]]) -> list[dict[str, int]]:
    """The labels with the best quality that there is, as often as they are there."""
    known = list(labels)
    best = max(label[BEST] for label in known)
    return [label for label in known if label[BEST] == best]


def new_answers(generated: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"id": answer_id(row), "prompt": row["prompt"], "response": row["response"].strip()}
        for row in generated
        if row["status"] == "ok" and row["response"].strip()
    ]


def kept(answers: Iterable[dict[str, Any]], labels: dict[str, dict[str, int]], least: dict[str, int]) -> list[dict[str, Any]]:
    """The rows to train on."""
    return [
        {"id": answer["id"], "prompt": answer["prompt"], "response": answer["response"], "attributes": labels[answer["id"]]}
        for answer in answers
        if answer["id"] in labels and all(labels[answer["id"]][name] >= value for name, value in least.items())
    ]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a JSONL file, unless it says so already: a job's input must not seem to change."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def run(name: str, overrides: list[str]) -> list[dict[str, Any]]:
    job = batchgen.Job.load(HERE / f"{name}.yaml", overrides)
    batchgen.run(job)
    return list(batchgen.Output.open(job.output.path).rows())


def label(to: Path, fields: list[str]) -> dict[str, dict[str, int]]:
    """Both labels of the conversations that `fields` name as input."""
    return merged(*(run(f"label-{kind}", [*fields, f"output.path={to}-{kind}"]) for kind in ("helpsteer", "oasst")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, default=HERE / "answers.jsonl", help="JSONL rows with id, prompt, response")
    parser.add_argument("--folder", type=Path, default=Path("outputs/steerlm"), help="where everything goes")
    parser.add_argument("--least", nargs="*", default=[], metavar="NAME=VALUE", help="least attributes of an answer to keep")
    parser.add_argument("--labeler", nargs="*", default=[], metavar="KEY.PATH=VALUE", help="fields of the label jobs")
    parser.add_argument("--generator", nargs="*", default=[], metavar="KEY.PATH=VALUE", help="fields of generate.yaml")
    options = parser.parse_args()
    folder, answers = options.folder, read(options.answers)
    least = {name: int(value) for name, _, value in (text.partition("=") for text in options.least)}

    asked = write(folder / "answers.jsonl", conversations(answers))
    labels = label(folder / "labels", [f"input.path={asked}", *options.labeler])
    points = write(folder / "combinations.jsonl", combinations(labels.values()))
    prompts = write(folder / "prompts.jsonl", ({"id": answer["id"], "prompt": answer["prompt"]} for answer in answers))
    places = [f"input.path={prompts}", f"attributes.sample.from={points}", f"output.path={folder / 'generated'}"]
    made = new_answers(run("generate", [*places, *options.generator]))
    source = [f"input.path={folder / 'generated'}", f"input.keep=[{', '.join(CHAINED)}]"]
    rows = kept(made, label(folder / "new-labels", [*source, *options.labeler]), least)
    path = write(folder / "train.jsonl", rows)
    print(f"\n{len(answers)} answers labelled, {len(made)} new ones made, {len(rows)} of them kept: {path}")


if __name__ == "__main__":
    try:
        main()
    except BatchgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
