"""The README against the code: its verbs, fields and columns are made from it, its quickstart from a real run.

python -m tests.test_readme [OUTPUT]    writes them anew; OUTPUT is a finished quickstart's output
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import typer

from batchgen import cli
from batchgen.export.fidelity import fidelity, table
from batchgen.job.job import Job
from batchgen.output.store import open_store
from batchgen.records import output_schema

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def block(name: str, text: str | None = None) -> str:
    """The text between a block's marks, or the README with `text` in its place."""
    readme = README.read_text()
    found = re.search(rf"(<!-- {name} -->\n)(.*?)(<!-- end -->)", readme, re.DOTALL)
    assert found, name
    return found[2] if text is None else readme[: found.start(2)] + text + readme[found.end(2) :]


def verbs() -> str:
    lines = ["| verb | options | |", "|---|---|---|"]
    for name, command in sorted(typer.main.get_command(cli.app).commands.items()):  # type: ignore[attr-defined]
        arguments = " ".join(p.metavar for p in command.params if p.param_type_name == "argument")
        options = ", ".join(
            f"`{p.opts[0]}{' ' + p.metavar if p.metavar else ''}`" for p in command.params if p.param_type_name == "option"
        )
        lines.append(f"| `batchgen {name} {arguments}".rstrip() + f"` | {options} | {command.help} |")
    return "\n".join(lines) + "\n"


def fields() -> str:
    schema = Job.model_json_schema(by_alias=True)
    lines = ["| field | default | |", "|---|---|---|"]
    for path, field in walk(schema, schema, ""):
        default = "required" if "default" not in field else f"`{json.dumps(field['default'])}`"
        lines.append(f"| `{path}` | {default} | {field['description']} |")
    return "\n".join(lines) + "\n"


def walk(schema: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node["properties"].items():
        inner = inside(schema, field)
        if inner is None or "column" in inner["properties"]:
            required = name in node.get("required", [])
            yield path + name, {k: v for k, v in field.items() if k != "default" or not required}
        else:
            if "description" in field and name == "schema":
                yield path + name, {**field, "description": field["description"]}
            yield from walk(schema, inner, f"{path}{name}.")


def inside(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """The object schema behind a field, if it is one."""
    for choice in [field, *field.get("anyOf", []), *field.get("allOf", [])]:
        target = schema["$defs"][choice["$ref"].rpartition("/")[2]] if "$ref" in choice else choice
        if "properties" in target:
            return target
    return None


def columns() -> str:
    schema = output_schema(pa.schema([pa.field("(kept input columns)", pa.null())]), ("helpfulness",))
    names = [field.name if field.name.startswith("(") else f"`{field.name}`" for field in schema]
    return ", ".join(names) + ".\n"


def quickstart_job() -> str:
    lines = (ROOT / "jobs/quickstart.yaml").read_text().splitlines()
    return "```yaml\n" + "\n".join(line for line in lines if not line.startswith("#")) + "\n```\n"


MADE = {"verbs": verbs, "fields": fields, "columns": columns, "quickstart job": quickstart_job}


@pytest.mark.parametrize("name", MADE)
def test_the_readme_says_what_the_code_says(name: str) -> None:
    assert block(name) == MADE[name](), "run: python -m tests.test_readme"


def test_every_file_and_command_that_the_readme_names_exists() -> None:
    text = README.read_text()
    for path in re.findall(r"`((?:jobs|tests|batchgen)/[\w./-]+\.\w+)`", text):
        assert (ROOT / path).is_file(), path
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_every_job_file_is_in_the_readme_and_loads() -> None:
    jobs = sorted((ROOT / "jobs").glob("*.yaml"))
    assert len(jobs) >= 3
    for path in jobs:
        assert f"`jobs/{path.name}`" in README.read_text()
        assert Job.load(path).name == path.stem


def test_the_row_in_the_readme_has_the_columns_of_a_part() -> None:
    row = json.loads(block("quickstart row").strip().removeprefix("```json").removesuffix("```"))
    assert (
        list(row)
        == output_schema(
            pa.schema([("prompt", pa.string()), ("language", pa.string()), ("input_extra", pa.string())]), ("a",)
        ).names
    )


def rewrite(output: str | None) -> None:
    for name, make in MADE.items():
        README.write_text(block(name, make()))
    if output:
        rows = ds.dataset(f"{output}/data").to_table().to_pylist()
        shown = next(row for row in rows if row["id"] == "en-01" and row["variant"] == 2)
        README.write_text(block("quickstart row", "```json\n" + json.dumps(shown, ensure_ascii=False, indent=2) + "\n```\n"))
        lines = ["| prompt | verbosity 0 | verbosity 2 | verbosity 4 |", "|---|---|---|---|"]
        for name in ("en-01", "en-07", "ja-03"):
            answers = [row for row in rows if row["id"] == name]
            lines.append(f"| {answers[0]['prompt']} | " + " | ".join(row["response"].strip() for row in answers) + " |")
        README.write_text(block("quickstart answers", "\n".join(lines) + "\n"))
        lines = ["| attribute | asked | answers | tokens |", "|---|---|---|---|"]
        found = fidelity(open_store(output))
        lines += [f"| {name} | {value} | {answers} | {tokens:.1f} |" for name, value, answers, tokens, _ in table(found)]
        README.write_text(block("quickstart fidelity", "\n".join(lines) + "\n"))


if __name__ == "__main__":
    rewrite(sys.argv[1] if len(sys.argv) > 1 else None)
