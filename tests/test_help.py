"""The README, the help topics and the other documents against the code. Tables are made from it, answers from a real run.

python -m tests.test_help [OUTPUT]    writes them anew; OUTPUT is a finished quickstart's output
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import typer
import yaml
from pydantic import BaseModel

import batchgen as package
from batchgen import __version__, cli, help
from batchgen.engines.echo import EchoOptions
from batchgen.engines.openai import OpenAIOptions
from batchgen.errors import UsageError
from batchgen.export.fidelity import fidelity, table
from batchgen.job.job import Job
from batchgen.output.output import Output
from batchgen.records.columns import output_schema
from tests.support.commands import batchgen

ROOT = Path(__file__).parents[1]
TOPICS = sorted((ROOT / "batchgen/help").glob("*.md"))
DOCUMENTS = [*ROOT.glob("*.md"), ROOT / "jobs/README.md", *sorted((ROOT / "tests").glob("*/README.md")), *TOPICS]
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
HEAD = {"--version", "--install-completion", "--show-completion", "--help", "-h"}
SHORT = ("id", "row", "variant", "prompt", "attributes", "response", "completion_tokens", "model", "prompt_hash", "status")


def find(file: str, name: str) -> tuple[Path, str, re.Match[str]]:
    """A document, its text, and its block `name`: marks around, generated text between."""
    path = ROOT / file
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"(<!-- {name} -->\n)(.*?)(<!-- end -->)", text, re.DOTALL)
    assert found, f"{file} has no block {name}"
    return path, text, found


def block(file: str, name: str) -> str:
    return find(file, name)[2][2]


def replace(file: str, name: str, made: str) -> None:
    path, text, found = find(file, name)
    path.write_text(text[: found.start(2)] + made + text[found.end(2) :], encoding="utf-8")


def verbs() -> str:
    lines = []
    for name, command in sorted(COMMANDS.items()):
        arguments = " ".join(p.metavar for p in command.params if p.param_type_name == "argument")
        lines.append(f"`batchgen {name} {arguments}".rstrip() + f"`: {command.help}\n")
        options = [p for p in command.params if p.param_type_name == "option"]
        lines += [f"- `{', '.join(p.opts)}{' ' + p.metavar if p.metavar else ''}`: {p.help}" for p in options]
        lines += [""] if options else []
    return "\n".join(lines).rstrip() + "\n"


def fields(model: type[BaseModel] = Job) -> str:
    schema = model.model_json_schema(by_alias=True)
    lines = []
    for path, field in walk(schema, schema, ""):
        default = "required" if "default" not in field else f"default `{json.dumps(field['default'])}`"
        lines.append(f"- `{path}` ({default}): {field.get('description', '')}")
    return "\n".join(lines) + "\n"


def walk(schema: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node["properties"].items():
        inner = inside(schema, field)
        if inner is None or "column" in inner["properties"]:
            required = name in node.get("required", [])
            yield path + name, {k: v for k, v in field.items() if k != "default" or not required}
        else:
            if "description" in field and name in ("schema", "groups"):
                yield path + name, {**field, "description": field["description"]}
            yield from walk(schema, inner, f"{path}{name}.")


def inside(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """The object schema behind a field, if it is one."""
    for choice in [
        field,
        *field.get("anyOf", []),
        *field.get("allOf", []),
        *([field["items"]] if "$ref" in field.get("items", {}) else []),
    ]:
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


def promises() -> str:
    """The README's promises without their tests."""
    rows = [line.split(" | ")[0].removeprefix("| ") for line in block("README.md", "promises").splitlines()[2:]]
    return "".join(f"- {row}\n" for row in rows)


def row_as_json(row: dict[str, Any]) -> str:
    lines = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in row.items()]
    return "```json\n{\n" + ",\n".join(lines) + "\n}\n```\n"


def full_row() -> dict[str, Any]:
    row: dict[str, Any] = json.loads(
        block("batchgen/help/output.md", "quickstart row").strip().removeprefix("```json").strip("`")
    )
    return row


MADE = {
    ("README.md", "topics"): lambda: ", ".join(f"`{name}`" for name in help.topics()) + ".\n",
    ("README.md", "quickstart row in short"): lambda: row_as_json({name: full_row()[name] for name in SHORT}),
    ("batchgen/help/commands.md", "verbs"): verbs,
    ("batchgen/help/job.md", "fields"): fields,
    ("batchgen/help/job.md", "quickstart job"): quickstart_job,
    ("batchgen/help/output.md", "columns"): columns,
    ("batchgen/help/engines.md", "openai options"): lambda: fields(OpenAIOptions),
    ("batchgen/help/engines.md", "echo options"): lambda: fields(EchoOptions),
    ("batchgen/help/guarantees.md", "promises"): promises,
}


@pytest.mark.parametrize(("file", "name"), MADE, ids=lambda part: part.replace(" ", "-"))
def test_generated_blocks_say_what_the_code_says(file: str, name: str) -> None:
    assert block(file, name) == MADE[file, name](), "run: python -m tests.test_help"


def test_every_topic_is_listed_and_shown() -> None:
    assert list(help.topics()) == [path.stem for path in TOPICS]
    for line in help.index().splitlines():
        name, title = line.split(maxsplit=1)
        shown = help.topic(name)
        assert shown.startswith(f"# {name}: {title}\n")
        assert "<!--" not in shown


def test_an_unknown_topic_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="help atributes: no such topic; did you mean 'attributes'"):
        help.topic("atributes")
    with pytest.raises(UsageError, match="topics are answers, attributes, "):
        help.topic("../cli")


def test_help_is_printed_and_an_unknown_topic_is_one_line() -> None:
    assert batchgen("help").stdout == help.index() + "\n"
    assert batchgen("help", "errors").stdout == help.topic("errors")
    assert batchgen("help", "eror").stderr == "error: help eror: no such topic; did you mean 'errors'?\n"


def test_the_version_is_printed() -> None:
    assert batchgen("--version").stdout == f"batchgen {__version__}\n"


def test_a_shell_completes_verbs() -> None:
    in_bash = ["bash", "-c", f"{sys.executable} -m batchgen --show-completion; exit $?"]  # the shell is a parent's
    assert "complete" in subprocess.run(in_bash, capture_output=True, text=True, check=False).stdout
    words = {"COMP_WORDS": "batchgen re", "COMP_CWORD": "1", "_BATCHGEN_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", "from batchgen.cli import app; app(prog_name='batchgen')"]
    done = subprocess.run(command, env=os.environ | words, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["retry"]


def test_every_name_that_the_python_topic_uses_is_public() -> None:
    names = re.findall(r"batchgen\.([A-Za-z]\w*)", help.topic("python"))
    assert {"run", "Job", "Output"} <= set(names)
    assert [name for name in names if name not in package.__all__] == []
    methods = re.findall(r"`(\w+)\(\)`", help.topic("python"))
    assert [name for name in methods if not hasattr(package.Output, name)] == []


def named(path: Path) -> set[str]:
    """Files and folders of the repository that a document names, in code or as the target of a link."""
    text = path.read_text(encoding="utf-8")
    code = re.findall(r"`(?:python )?((?:jobs|tests|batchgen)/[\w./-]+[\w/])", text)
    near = re.findall(r"\]\(([\w./-]+)\)|`(\.\./[\w./-]+\.\w+|test_\w+\.py)", text)
    links = [str((path.parent / "".join(target)).resolve().relative_to(ROOT)) for target in near]
    return {*code, *links}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    assert [name for name in named(path) if not (ROOT / name).exists()] == []


def commands(text: str) -> list[str]:
    """What a document says after `batchgen`: in code, or in a block of shell commands."""
    shell = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    return re.findall(r"`batchgen ([^`\n]+)`", text) + re.findall(r"^(?:    python -m )?batchgen ([^#\n]+)", shell, re.MULTILINE)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if "bench" not in path.parts], ids=lambda path: path.stem)
def test_every_command_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for verb, _, arguments in (command.partition(" ") for command in commands(text)):
        known = {flag for parameter in COMMANDS[verb].params for flag in parameter.opts} if verb in COMMANDS else HEAD
        assert set(re.findall(r"--[a-z-]+", f"{verb} {arguments}")) <= known, f"batchgen {verb} {arguments}"
        assert verb in COMMANDS or verb in HEAD, f"batchgen {verb}"
        assert verb != "help" or arguments.strip("[]") in {"", "TOPIC", *help.topics()}, arguments
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def blocks(paths: list[Path], language: str) -> list[Any]:
    """The code of a language in documents, each block under its document's name."""
    found = (
        (path.stem, re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)) for path in paths
    )
    return [pytest.param(code, id=f"{name}-{number}") for name, codes in found for number, code in enumerate(codes)]


@pytest.mark.parametrize("code", blocks([*TOPICS, ROOT / "README.md"], "yaml"))
def test_every_piece_of_a_job_that_a_document_shows_is_valid(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("helpsteer.jsonl").write_text('{"verbosity": 1}')
    job = {"input": {"path": "in", "prompt": "prompt"}, "engine": {"kind": "echo"}, "output": {"path": "out"}}
    Job.parse(job | yaml.safe_load(code))


@pytest.mark.parametrize("code", blocks([ROOT / "CONTRIBUTING.md"], "python"))
def test_the_examples_of_contributing_can_be_imported(code: str) -> None:
    exec(compile(code, "CONTRIBUTING.md", "exec", dont_inherit=True), {"__name__": "example"})


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_job_file_is_in_the_jobs_readme_and_loads(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = (ROOT / "jobs/README.md").read_text(encoding="utf-8")
    assert f"`{path.relative_to(ROOT)}`" in said
    job = Job.load(path)
    assert job.name.endswith(path.stem)
    if job.model and "tiny" in job.model.source:
        assert "dtype" not in job.engine.options  # bfloat16 is slow on many CPUs


def test_the_row_that_is_shown_has_the_columns_of_a_part() -> None:
    kept = pa.schema([("prompt", pa.string()), ("language", pa.string()), ("input_extra", pa.string())])
    assert list(full_row()) == output_schema(kept, ("a",)).names


def rewrite(output: str | None) -> None:
    if output:
        rows = ds.dataset(f"{output}/data").to_table().to_pylist()
        shown = next(row for row in rows if row["id"] == "en-01" and row["variant"] == 2)
        replace("batchgen/help/output.md", "quickstart row", row_as_json(shown))
        lines = ["| prompt | verbosity 0 | verbosity 2 | verbosity 4 |", "|---|---|---|---|"]
        for name in ("en-01", "en-07", "ja-03"):
            answers = [row for row in rows if row["id"] == name]
            lines.append(f"| {answers[0]['prompt']} | " + " | ".join(row["response"].strip() for row in answers) + " |")
        replace("README.md", "quickstart answers", "\n".join(lines) + "\n")
        lines = ["| attribute | asked | answers | tokens |", "|---|---|---|---|"]
        found = fidelity(Output.open(output))
        lines += [f"| {name} | {value} | {answers} | {tokens:.1f} |" for name, value, answers, tokens, _ in table(found)]
        replace("batchgen/help/attributes.md", "quickstart fidelity", "\n".join(lines) + "\n")
    for (file, name), make in MADE.items():
        replace(file, name, make())


if __name__ == "__main__":
    rewrite(sys.argv[1] if len(sys.argv) > 1 else None)
