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

Every step is a batchgen job of this folder, whose query makes its rows of the files and outputs before it. --labeler and
--generator override their fields:
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
NEW = "SELECT concat_ws('-', id, variant, sample) AS id, messages, attributes, completion_tokens FROM input"
"""The new answers as the label jobs read them: each under answer_id, and for `batchgen fidelity` what was asked for."""


def answer_id(row: dict[str, Any]) -> str:
    """Of an answer that a batchgen job made: a prompt has several."""
    return f"{row['id']}-{row['variant']}-{row['sample']}"


def merged(*labelled: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Attributes by id, of the answers that every label job has labelled."""
    found = [{row["id"]: row["parsed"] for row in rows if row["status"] == "ok"} for rows in labelled]
    return {name: {k: v for one in found for k, v in one[name].items()} for name in found[0] if all(name in one for one in found)}


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
    folder, source = options.folder, f"input.path={options.answers}"
    least = {name: int(value) for name, _, value in (text.partition("=") for text in options.least)}

    labels = label(folder / "labels", [source, *options.labeler])
    tables = f"input.tables={{helpsteer: {folder}/labels-helpsteer, oasst: {folder}/labels-oasst}}"
    made = new_answers(run("generate", [source, tables, f"output.path={folder}/generated", *options.generator]))
    chained = [f"input.path={folder}/generated", f"input.query={NEW}", "input.keep=[attributes, completion_tokens]"]
    rows = kept(made, label(folder / "new-labels", [*chained, *options.labeler]), least)
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"\n{len(labels)} answers labelled, {len(made)} new ones made, {len(rows)} of them kept: {path}")


if __name__ == "__main__":
    try:
        main()
    except BatchgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
