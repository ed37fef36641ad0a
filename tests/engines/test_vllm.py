"""vllm.py without vLLM: its arguments, the tokens of its outputs, the images of its prompts. tests/e2e has the engine itself."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest

from batchgen import logprobs
from batchgen.engines import vllm, vllm_cpu
from batchgen.engines.base import Request
from batchgen.engines.vllm import KIND, engine_arguments, read_picture
from batchgen.engines.vllm_sampling.scores import token_logprobs
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.job.sampling import check_sampling
from batchgen.render.model_files import Adapter, ModelFiles
from tests.support.planning import make_job


def arguments(monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, ...] = (), nodes: int = 1, **engine: Any) -> dict[str, object]:
    """Of a job with LoRA adapters of these ranks, for a GPU build."""
    monkeypatch.setattr(vllm_cpu, "runs_on_cpu", lambda: False)
    adapters = {f"a{number}": Adapter(number, f"/a{number}", rank) for number, rank in enumerate(ranks, 1)}
    job = Job.parse({"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}, "model": {"source": "m"}, "engine": engine})
    return engine_arguments(job, ModelFiles("m", "/m", "c0ffee", None, None, {}, None, {}, adapters), nodes)


def test_the_arguments_are_a_batch_jobs_defaults_the_options_and_what_the_job_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments(monkeypatch, options={"max_num_seqs": 4, "disable_log_stats": False}, tensor_parallel_size=2) == {
        "load_format": "safetensors",
        "disable_log_stats": False,
        "scheduling_policy": "priority",
        "distributed_executor_backend": "mp",
        "max_num_seqs": 4,
        "model": "/m",
        "revision": "c0ffee",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "enable_expert_parallel": False,
        "trust_remote_code": False,
    }
    assert arguments(monkeypatch)["distributed_executor_backend"] is None


def test_data_parallel_ranks_are_processes_and_pipeline_stages_on_several_nodes_are_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    found = arguments(monkeypatch, data_parallel_size=4, expert_parallel=True)
    assert (found["data_parallel_size"], found["enable_expert_parallel"]) == (4, True)
    assert found["distributed_executor_backend"] == "mp"
    assert arguments(monkeypatch, nodes=2, pipeline_parallel_size=2)["distributed_executor_backend"] == "ray"
    assert not KIND.capabilities.spreads_copies


def test_an_engine_on_a_fraction_of_a_gpu_takes_that_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments(monkeypatch, gpus=0.25)["gpu_memory_utilization"] == pytest.approx(0.225)
    assert arguments(monkeypatch, gpus=0.25, options={"gpu_memory_utilization": 0.2})["gpu_memory_utilization"] == 0.2
    assert "gpu_memory_utilization" not in arguments(monkeypatch, gpus=1)
    for gpus, shares in ((0.25, True), (1, False), (None, False)):
        job = make_job("x", engine={"kind": "vllm", "gpus": gpus}, model={"source": "m"})
        assert vllm.VllmKind().make(job, ModelFiles("m", "/m", None, None, None, {}, None, {}))._shares_gpu is shares


@pytest.mark.parametrize(("ranks", "made"), [((4,), (1, 8)), ((8, 9), (2, 16)), ((600,), (1, 600)), ((1,) * 9, (8, 8))])
def test_adapters_have_slots_of_a_rank_that_vllm_allocates(
    ranks: tuple[int, ...], made: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = arguments(monkeypatch, ranks)
    assert (found["enable_lora"], found["max_loras"], found["max_lora_rank"]) == (True, *made)
    assert arguments(monkeypatch, ranks, options={"max_loras": 3})["max_loras"] == 3


def test_of_vllms_positions_the_chosen_token_is_taken_and_the_likeliest_by_rank() -> None:
    def entry(logprob: float, rank: int, text: str) -> SimpleNamespace:
        return SimpleNamespace(logprob=logprob, rank=rank, decoded_token=text)

    outside = {5: entry(-4.0, 9, "e"), 1: entry(-0.5, 1, "a"), 2: entry(-1.0, 2, "b")}
    inside = {2: entry(-1.5, 2, "b"), 3: entry(-0.25, 1, "c")}
    output = SimpleNamespace(token_ids=[5, 2], logprobs=[outside, inside])
    found = token_logprobs(output, 2)
    assert found is not None
    assert [(token["token_id"], token["token"], token["logprob"]) for token in found.to_pylist()] == [
        (5, "e", -4.0),
        (2, "b", -1.5),
    ]
    assert [[other["token_id"] for other in token["top"]] for token in found.to_pylist()] == [[1, 2], [3, 2]]
    alone = SimpleNamespace(token_ids=[1], logprobs=[{1: entry(-0.5, 1, "a")}])
    assert token_logprobs(alone, 0) == logprobs.of_answer([(1, "a", -0.5, [])])
    assert token_logprobs(SimpleNamespace(token_ids=[1], logprobs=None), None) is None


def data_url(picture: PIL.Image.Image, form: str = "PNG") -> str:
    made = io.BytesIO()
    picture.save(made, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(made.getvalue()).decode()}"


def test_a_picture_is_read_as_rgb() -> None:
    read = read_picture(data_url(PIL.Image.new("LA", (3, 2), (10, 255))))
    assert (read.mode, read.size, read.getpixel((0, 0))) == ("RGB", (3, 2), (10, 10, 10))


def test_a_picture_that_needs_another_program_is_not_read() -> None:
    with pytest.raises(PIL.UnidentifiedImageError):
        read_picture(data_url(PIL.Image.new("RGB", (3, 2)), "EPS"))


def test_a_small_text_that_makes_a_large_picture_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "MOST_PIXELS", 5)
    with pytest.raises(ValueError, match="an image of 3 x 2 pixels, over 5"):
        read_picture(data_url(PIL.Image.new("RGB", (3, 2))))


@pytest.mark.parametrize("sampling", [{"n": 3}, {"n": 1, "best_of": 2}])
def test_several_answers_at_temperature_0_are_refused_before_anything_starts(sampling: dict[str, Any]) -> None:
    name, number = [*sampling.items()][-1]
    with pytest.raises(
        JobError, match=rf"^sampling\.{name} {number}: at temperature 0 .*; set a temperature, or ask for one answer$"
    ):
        KIND.check(make_job("x", engine={"kind": "vllm"}, sampling={"temperature": 0, **sampling}))
    KIND.check(make_job("x", engine={"kind": "vllm"}, sampling={"temperature": 0.5, **sampling}))


def test_biases_are_vllms_by_number_and_a_request_without_them_has_none() -> None:
    def asked(**given: Any) -> SimpleNamespace:
        engine = vllm.VllmEngine({}, {})
        kinds = SimpleNamespace(FINAL_ONLY="final")
        engine._vllm = SimpleNamespace(SamplingParams=SimpleNamespace, RequestOutputKind=kinds)
        made = engine._parameters(Request("r", [1], check_sampling(given)))
        assert isinstance(made, SimpleNamespace)
        return made

    assert asked(logit_bias={"50256": -100, "7": 1}).logit_bias == {7: 1.0, 50256: -100.0}
    assert asked().logit_bias is None
