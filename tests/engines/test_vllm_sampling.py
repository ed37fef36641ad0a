"""What vLLM refuses of a row's sampling is an error of that row, before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines.base import ENGINES, Request
from batchgen.errors import BadRow
from batchgen.job.job import Job
from batchgen.prepare import prepare
from batchgen.records import Answer
from batchgen.render.capabilities import Capabilities
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support.planning import make_job
from tests.support.rendering import TINY, error_of, one
from tests.support.replicas import Backwards, blocks, ran, replica

SEVERAL = (
    "sampling: {} {}: at temperature 0 all answers are the same, and vLLM refuses it; set a temperature, or ask for one answer"
)


def rendered(kind: str, job: dict[str, Any], **row: Any) -> tuple[str, str] | None:
    """The error of a row for an engine of a kind, None where it has none."""
    made = make_job("in.jsonl", engine={"kind": kind}, model={"source": str(TINY)}, **job)
    capabilities: Capabilities = ENGINES.named(kind).capabilities
    model = load_model(made.model, hosted=not capabilities.reads_model)
    prompt = one(Renderer(made, model, capabilities), prompt="a", **row)
    return None if prompt.error is None else error_of(prompt)


@pytest.mark.parametrize(
    ("job", "row", "field", "number"),
    [
        ({}, {"sampling": {"temperature": 0, "n": 2}}, "n", 2),
        ({}, {"sampling": {"temperature": 0.0, "n": 1, "best_of": 3}}, "best_of", 3),
        ({"n": 2}, {"sampling": {"temperature": 0}}, "n", 2),
        ({"temperature": 0}, {"sampling": {"n": 4}}, "n", 4),
        ({"temperature": 0, "n": {"column": "many"}}, {"many": 5}, "n", 5),
        ({"temperature": {"column": "heat"}, "best_of": 2}, {"heat": 0.0}, "best_of", 2),
    ],
)
def test_several_answers_at_temperature_0_are_the_error_of_their_row(
    job: dict[str, Any], row: dict[str, Any], field: str, number: int
) -> None:
    assert rendered("vllm", {"sampling": job}, **row) == ("input", f"in.jsonl:1: {SEVERAL.format(field, number)}")
    assert rendered("echo", {"sampling": job}, **row) is None
    assert rendered("openai", {"sampling": job}, **row) is None


@pytest.mark.parametrize("own", [{"temperature": 0}, {"temperature": 0, "best_of": 1}, {"temperature": 1e-6, "n": 2}])
def test_one_answer_or_a_temperature_is_taken(own: dict[str, Any]) -> None:
    assert rendered("vllm", {}, sampling=own) is None


def test_a_request_of_an_openai_batch_is_refused_by_itself(tmp_path: Path) -> None:
    bodies = [{"temperature": 0, "n": 2}, {"temperature": 0}, {"n": 2}]
    talk = {"messages": [{"role": "user", "content": "Hello"}]}
    lines = [{"custom_id": f"r{number}", "body": talk | body} for number, body in enumerate(bodies)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    source = {"path": str(tmp_path / "in.jsonl"), "format": "openai-batch"}
    job = {"engine": {"kind": "vllm"}, "model": {"source": str(TINY)}, "output": {"path": str(tmp_path / "out")}}
    made = prepare(Job.parse({"input": source, **job}))
    sent: list[dict[str, Any]] = []

    class Counting(Backwards):
        async def generate(self, request: Request) -> list[Answer]:
            sent.append({"temperature": request.sampling.temperature, "n": request.sampling.n})
            return [Answer("a", 1, "stop")] * request.sampling.n

    receipt = ran(replica(made, Counting(1)), blocks(made)[0])
    assert (receipt.counts.ok, receipt.errors) == (3, {"input": 1})
    assert sent == [{"temperature": 0, "n": 1}, {"temperature": 1, "n": 2}]


def test_the_sampling_of_another_attempt_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    policy = {"timeout": {"retry": 1, "sampling": {"temperature": 0}}}
    fields = {"sampling": {"best_of": 2}, "errors": policy, "output": {"path": str(tmp_path / "out")}}
    made = prepare(make_job(str(tmp_path / "in.jsonl"), engine={"kind": "vllm"}, model={"source": str(TINY)}, **fields))
    asked = 0

    class Slow(Backwards):
        async def generate(self, request: Request) -> list[Answer]:
            nonlocal asked
            asked += 1
            raise BadRow("timeout", "slow")

    receipt = ran(replica(made, Slow(1)), blocks(made)[0])
    assert (asked, receipt.errors) == (1, {"input": 1})
    assert receipt.samples[0][0].detail.endswith(SEVERAL.format("best_of", 2))
