"""The way in: the file of rows that somebody has -> a job file with comments. Also what `run FILE` makes up in its place."""

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import yaml

from batchgen.errors import JobError, printable
from batchgen.job.fields import Fields, in_full, override, read_yaml
from batchgen.job.input import Input
from batchgen.job.job import Job
from batchgen.read.detect import Detected, detect_in

MODEL_HERE = "PATH-OR-HUB-ID"
SHOWN_COLUMNS = 20
STEERED = ("karakuri", "steerlm")  # names of models that read attributes
JOB_ENDINGS = (".yaml", ".yml")


def is_job_file(path: str) -> bool:
    return path.lower().endswith(JOB_ENDINGS) or path.startswith("/dev/")


def look(path: str, prompt: str | None = None) -> Detected:
    """What the input at a path is, by its first rows; `prompt` names the column that makes the prompt. Raises JobError where
    the columns do not tell, InputError."""
    found, columns = detect_in(Input(path=path), prompt)
    if found is None:
        told = ", ".join(columns) or "there is no row that can be read"
        cause = f"{path}: its columns do not tell what makes the prompt: {told}"
        raise JobError(cause, "name one with --prompt")
    return found


def text_of(path: str, found: Detected, model: str | None = None, out: str | None = None) -> str:
    """A job file that runs: with the model, or without one by the echo engine, a rehearsal."""
    name = name_of(path)
    columns = [f"{_word(column)} ({shape})" for column, shape in list(found.columns.items())[:SHOWN_COLUMNS]]
    more = ", ..." if len(found.columns) > SHOWN_COLUMNS else ""
    lines = [
        f"# {printable(found.title)}. Its columns: {', '.join(columns)}{more}",
        "# Every field: batchgen help job. What the model will see: batchgen check JOB --prompts 3",
        f"name: {_word(name)}",
        "input:",
        f"  path: {_word(path)}",
        *(f"  {key}: {_value(value)}{_NOTES.get(key, '')}" for key, value in found.fields.items()),
        *(f"  # prompt: {_word(rival)}" for rival in found.rivals),
    ]
    if found.rivals:
        lines.append("  # or several columns in one message, in place of `prompt`: template: '{{ column }} {{ other column }}'")
    lines += _steering(found, model)
    if model is None:
        lines += [
            f"# model: {MODEL_HERE}  # answers come from a model: name it here, and take `engine` out",
            "engine: {kind: echo}  # a rehearsal without a model; its answers mean nothing",
        ]
    else:
        template = f"{{source: {_word(model)}, chat_template: {found.template}}}" if found.template else _word(model)
        lines += [f"model: {template}"]
    asked = "sampling: {temperature: 0.7, max_tokens: 512}" if found.task == "generate" else f"task: {found.task}"
    lines += [asked, f"output: {_word(out or f'outputs/{name}')}"]
    return "\n".join(lines) + "\n"


def job_of(
    given: str,
    overrides: Iterable[str] = (),
    engine: str | None = None,
    model: str | None = None,
    prompt: str | None = None,
    out: str | None = None,
) -> tuple[Job, str | None]:
    """The job of a job file, or of a file of rows, whose job is made up: with the command that keeps that. Raises JobError."""
    keeps = None
    if is_job_file(given):
        fields, origin = read_yaml(given), f"job file {given}"
        named = {"model.source": model, "input.prompt": prompt, "output.path": out}
        overrides = [*(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None), *overrides]
    else:
        if model is None and engine is None:
            raise JobError(f"{given}: no model", "name one with --model, or rehearse without one: --engine echo")
        found, origin = look(given, prompt), f"the job of {given}"
        if found.rivals:
            which = ", ".join([found.fields["prompt"], *found.rivals])
            raise JobError(f"{given}: several columns may be the prompt: {which}", "choose one with --prompt")
        fields = yaml.safe_load(text_of(given, found, model, out))
        if model is not None and engine is None:
            keeps = shlex.join(["batchgen", "init", given, "--model", model, *(["--prompt", prompt] if prompt else [])])
        else:
            keeps = shlex.join(["batchgen", "init", given, *(["--prompt", prompt] if prompt else [])])
    fields = with_engine(fields, engine) if engine else fields
    for text in overrides:
        override(fields, text)
    return Job.parse(fields, origin), keeps


def shown(job: Job) -> str:
    """A job that was made up, as short YAML."""
    fields = job.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return printable(yaml.safe_dump(fields, allow_unicode=True, sort_keys=False, default_flow_style=None, width=120).strip())


def with_engine(fields: Fields, kind: str) -> Fields:
    """The fields of a job for another kind of engine: what they say of their own one, and of the nodes that it needs, is set
    aside; for a rehearsal (echo) also hosts of images, which it does not fetch, and the engine of a judge."""
    own, replicas, source = fields.get("engine"), fields.get("replicas"), in_full("input", fields.get("input"))
    if kind == (own.get("kind", "vllm") if isinstance(own, dict) else "vllm"):
        return fields
    if kind == "echo" and isinstance(source, dict):
        fields = fields | {"input": {name: value for name, value in source.items() if name != "image_hosts"}}
    accept = fields.get("accept")
    if kind == "echo" and isinstance(accept, dict) and isinstance(judge := accept.get("judge"), dict) and "engine" in judge:
        fields = fields | {"accept": accept | {"judge": judge | {"engine": {"kind": kind}}}}
    kept = {name: replicas[name] for name in ("max", "env_from") if name in replicas} if isinstance(replicas, dict) else {}
    return {**fields, "engine": {"kind": kind}, "replicas": kept}


def name_of(path: str) -> str:
    """A job's name from the path of its input: its stem, without the endings of compressed files."""
    stem = PurePath(path.rstrip("/")).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100] or "job"


def write(path: Path, text: str, force: bool) -> None:
    """Raises JobError where there is a file already, unless `force`, and where none can be written."""
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobError(f"{path}: there is one already", "choose another name with -o, or replace it with --force") from None
    except OSError as error:
        raise JobError(f"{path}: {error.strerror}") from None


def _steering(found: Detected, model: str | None) -> list[str]:
    if not found.steering:
        return []
    lines = ["attributes:", "  schema: karakuri"]
    said = f"# {', '.join(found.steering)}: a row's own values steer its answer, by a model that was trained for it"
    reads = model is None or any(name in model.lower() for name in STEERED)
    return [said, *(lines if reads else [f"# {line}" for line in lines])]


_NOTES = {
    "prompt": "  # one user message a row",
    "messages": "  # conversations of {role, content}",
    "conversations": "  # conversations of {from, value}",
    "drop_last_answer": "  # a conversation that ends with an answer gets another one",
    "instruction": "  # one user message a row",
    "context": "  # its text, where it has one",
    "turns": "  # user messages, each answered before the next",
    "id": "  # names the row in the output",
}


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{{column: {_word(value['column'])}}}" if isinstance(value, dict) else _word(value)


def _word(text: str) -> str:
    """A text as YAML on one line."""
    if re.fullmatch(r"[\w/][\w/.+@-]*", text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text) if not text.isprintable() else "'" + text.replace("'", "''") + "'"
