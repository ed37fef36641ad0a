"""base.py: engine kinds by name, and one that another package adds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from batchgen.engines.base import ENGINES, refuse_missing
from batchgen.errors import EngineError, JobError, UsageError
from batchgen.job.job import Job
from batchgen.prepare import prepare
from tests.support.packages import install
from tests.support.replicas import answered

TOY = '''
"""An engine from another package: it shouts the prompt."""

from batchgen.engines.base import Engine, Request
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.records import Answer
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import ModelFiles


class ToyKind:
    capabilities = Capabilities(needs_model=False)

    def check(self, job: Job) -> None:
        if job.engine.options.keys() - {"volume"}:
            raise JobError("toy has one option: volume")

    def context(self, job: Job) -> int | None:
        return None

    def make(self, job: Job, model: ModelFiles) -> Engine:
        return Toy(job.engine.options.get("volume", 1))


class Toy:
    capacity, workers = 4, 1

    def __init__(self, volume: int) -> None:
        self.volume = volume

    async def start(self) -> None: ...

    async def probe(self) -> None: ...

    async def stop(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        text = bytes(request.token_ids).decode().upper() + "!" * self.volume
        return [Answer(text, 1, "stop")] * request.sampling.n


KIND = ToyKind()
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with the installed package `toys`, which adds the kind `toy`, and two that do not load."""
    folder = tmp_path / "site"
    kinds = {"toy": "toys:KIND", "echoo": "toys_that_are_not_there:KIND", "echo": "toys:KIND"}
    install(folder, monkeypatch, {"batchgen.engines": kinds})
    (folder / "toys.py").write_text(dedent(TOY))
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    return folder


def job(**engine: Any) -> Job:
    fields = {"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}, "model": {"source": "m"}}
    return Job.parse({**fields, "engine": engine})


def test_an_engine_of_another_package_answers_a_job(package: Path, tmp_path: Path) -> None:
    toy = {"kind": "toy", "options": {"volume": 3}}
    rows, receipt = answered(tmp_path, [{"prompt": "hello"}], engine=toy, sampling={"n": 2})
    assert [row["response"] for row in rows] == ["USER: HELLO\n!!!"] * 2
    assert receipt.counts.ok == 2


def test_its_options_are_checked_before_anything_starts(package: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="toy has one option: volume"):
        answered(tmp_path, [{"prompt": "hello"}], engine={"kind": "toy", "options": {"colour": "red"}})


def test_a_name_that_is_built_in_stays_ours(package: Path) -> None:
    assert type(ENGINES.named("echo")).__module__ == "batchgen.engines.echo"


def test_a_package_that_does_not_load_is_named(package: Path) -> None:
    with pytest.raises(JobError) as caught:
        ENGINES.named("echoo")
    assert str(caught.value) == (
        "engine.kind echoo: toys_that_are_not_there:KIND cannot be imported: "
        "ModuleNotFoundError: No module named 'toys_that_are_not_there'"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [("vlm", ", did you mean vllm?"), ("OpenAI", ", did you mean openai?"), ("toi", ", did you mean toy?")],
)
def test_an_unknown_name_is_refused_with_the_nearest_and_the_list(package: Path, name: str, near: str) -> None:
    with pytest.raises(JobError) as caught:
        ENGINES.named(name)
    assert str(caught.value) == f"engine.kind {name}: no such name{near}; there are vllm, openai, echo, echoo, toy"


@pytest.mark.parametrize("name", ENGINES.names())
def test_a_built_in_kind_is_in_the_json_schema(name: str) -> None:
    assert f"{name}: " in json.dumps(Job.model_json_schema()["$defs"]["Engine"]["properties"]["kind"])


@pytest.mark.parametrize(("name", "needed"), [("vllm", True), ("openai", True), ("echo", False)])
def test_a_model_is_required_unless_the_engine_is_echo(name: str, needed: bool) -> None:
    assert ENGINES.named(name).capabilities.needs_model == needed
    ENGINES.named(name).check(job(kind=name))
    missing = f"engine.kind {name} needs a model; set model.source" if needed else "input.path"
    with pytest.raises(UsageError, match=missing):
        prepare(job(kind=name).model_copy(update={"model": None}))


def test_an_endpoint_takes_messages_and_counts_tokens_and_nobody_reads_its_model() -> None:
    hosted = ENGINES.named("openai").capabilities
    assert (hosted.prompts, hosted.reads_model, hosted.counts_tokens, hosted.device) == ("messages", False, True, "cpu")
    assert ENGINES.named("echo").capabilities.prompts == ENGINES.named("vllm").capabilities.prompts == "tokens"


def test_a_package_that_an_engine_lacks_is_named_with_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, {"batchgen.engines": {"lacking": "lacking:KIND"}})
    (tmp_path / "lacking.py").write_text(dedent(TOY).replace("needs_model=False", 'packages=("no_such_package",)'))
    with pytest.raises(EngineError, match="engine lacking needs the package no_such_package, which is not installed here"):
        refuse_missing(job(kind="lacking"))
    refuse_missing(job(kind="echo"))
    assert [ENGINES.named(name).capabilities.packages for name in ("vllm", "openai")] == [("vllm",), ("openai",)]
