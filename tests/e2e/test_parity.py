"""The tiny model in float32: token for token what Transformers makes of the same rows, each token with its log-probability."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from typing import Any

import psutil
import pytest

from batchgen.engines.base import Request
from batchgen.engines.vllm import VllmEngine
from batchgen.errors import BadRow
from batchgen.job.sampling import check_sampling
from batchgen.job.schemas import BUILT_IN
from batchgen.records import Answer, Prompt
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer
from tests.support.rendering import EOS, TINY, make_job
from tests.support.rendering import prompts as prompts_of
from tests.support.shared_engine import OPTIONS, Shared

# vLLM is imported in this process; what its libraries warn of is not ours.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
ROWS, TOKENS = 100, 40
DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""One dot, which the tiny model cannot see: vLLM refuses it, and goes on."""
TOPICS = ["tea", "rain", "cats", "the moon", "bread", "chess", "bees", "trains", "雨", "睡眠"]


def rows() -> list[dict[str, Any]]:
    """Half of them with attributes of their own."""
    dice = random.Random(0)
    made = []
    for number in range(ROWS):
        values = {name: dice.randint(0, 4) for name in BUILT_IN["karakuri"].names} if number % 2 else {}
        made.append({"prompt": f"Tell me about {TOPICS[number % 10]}, number {number}.", **values})
    return made


async def ours(engine: VllmEngine, prompts: list[Prompt]) -> list[Answer]:
    """The engine's answers; those of every third prompt are asked for with 0, 1 and 2 likeliest tokens."""
    plain = prompts[0].sampling
    assert plain is not None
    with pytest.raises(BadRow, match="text-only models") as refused:
        await engine.generate(Request("image", prompts[0].token_ids, plain, images=[DOT]))
    assert refused.value.code == "engine_rejected"
    asked = [
        engine.generate(Request(str(n), prompt.token_ids, prompt.sampling.model_copy(update={"logprobs": n % 3})))
        for n, prompt in enumerate(prompts)
        if prompt.sampling is not None
    ]
    assert len(asked) == len(prompts)
    sampled = plain.model_copy(update={"temperature": 1.0, "n": 2, "best_of": 2})
    assert len(await engine.generate(Request("best", prompts[0].token_ids, sampled))) == 2, "vLLM knows no best_of"
    return [output for [output] in await asyncio.gather(*asked)]


@pytest.fixture(scope="module")
def answers(vllm_engine: Shared) -> tuple[list[Prompt], list[Answer]]:
    """The prompts of `rows` and what the engine answers, greedily."""
    job = make_job(
        attributes={"schema": "karakuri"},
        model={"source": str(TINY)},
        engine={"kind": "vllm", "options": OPTIONS},
        sampling={"temperature": 0, "max_tokens": TOKENS, "logprobs": 0},
        output={"path": "out", "token_logprobs": True},
    )
    renderer = Renderer(job, load_model(job.model))
    prompts = [prompt for number, row in enumerate(rows()) for prompt in prompts_of(renderer, number, **row)]
    return prompts, vllm_engine.run(ours(vllm_engine.engine, prompts))


def test_an_engine_sends_no_statistics_keeps_its_memory_and_keeps_off_its_workers_cores(vllm_engine: Shared) -> None:
    from vllm.usage.usage_lib import is_usage_stats_enabled

    assert isinstance(vllm_engine.engine, VllmEngine)
    assert not is_usage_stats_enabled()
    assert len(vllm_engine.cores) == 1 or os.sched_getaffinity(0) < vllm_engine.cores
    workers = psutil.Process().children(recursive=True)
    assert any("MALLOC_TRIM_THRESHOLD_" in process.environ() for process in workers), "it keeps what a layer frees"
    assert gc.get_freeze_count() > 100_000, "the collector does not visit what vLLM's modules hold"


def tokens(output: Answer) -> list[dict[str, Any]]:
    assert output.token_logprobs is not None
    found: list[dict[str, Any]] = output.token_logprobs.to_pylist()
    return found


def test_greedy_answers_are_transformers_token_for_token(answers: tuple[list[Prompt], list[Answer]]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts, outputs = answers
    torch.set_num_threads(1)  # the model is so small that more only wait for each other
    tokenizer = AutoTokenizer.from_pretrained(str(TINY))
    theirs = AutoModelForCausalLM.from_pretrained(str(TINY), dtype=torch.float32).eval()
    expected = []
    for row, prompt in zip(rows(), prompts, strict=True):
        message = {"role": "user", "content": row["prompt"], **{k: v for k, v in row.items() if k != "prompt"}}
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        assert text == prompt.text
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        assert ids[0].tolist() == prompt.token_ids
        with torch.no_grad():
            whole = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False)
        expected.append(whole[0, ids.shape[1] :].tolist())
    found = [[token["token_id"] for token in tokens(output)] for output in outputs]
    assert [number for number in range(ROWS) if found[number] != expected[number]] == []
    assert len({tuple(ids) for ids in found}) > ROWS / 4, "they differ from row to row"


def test_every_token_of_an_answer_has_its_logprob(answers: tuple[list[Prompt], list[Answer]]) -> None:
    for number, output in enumerate(answers[1]):
        made = tokens(output)
        assert len(made) == output.tokens
        assert sum(token["logprob"] for token in made) == pytest.approx(output.cumulative_logprob, abs=1e-4)
        for token in made:
            assert len(token["top"]) == number % 3
            assert sorted(token["top"], key=lambda other: -other["logprob"]) == token["top"]
            if token["top"]:
                assert token["top"][0] == {key: token[key] for key in ("token_id", "token", "logprob")}, "it is greedy"
        if output.text.isascii():
            assert "".join(token["token"] for token in made if token["token_id"] != EOS) == output.text
    assert any(output.text.isascii() for output in answers[1])


def test_every_token_of_a_prompt_has_transformers_logprob(
    vllm_engine: Shared, answers: tuple[list[Prompt], list[Answer]]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    asked, most = answers[0][:12], 3
    sampling = check_sampling({"temperature": 0, "max_tokens": 2, "prompt_logprobs": most})

    async def scored() -> list[list[Answer]]:
        requests = (Request(f"prompt {number}", one.token_ids, sampling) for number, one in enumerate(asked))
        return list(await asyncio.gather(*map(vllm_engine.engine.generate, requests)))

    theirs = AutoModelForCausalLM.from_pretrained(str(TINY), dtype=torch.float32).eval()
    for prompt, [answer] in zip(asked, vllm_engine.run(scored()), strict=True):
        assert answer.prompt_logprobs is not None
        tokens = answer.prompt_logprobs.to_pylist()
        assert [token["token_id"] for token in tokens] == prompt.token_ids
        assert (tokens[0]["logprob"], tokens[0]["top"]) == (None, [])
        with torch.no_grad():
            expected = torch.log_softmax(theirs(torch.tensor([prompt.token_ids])).logits[0], -1)
        for place, token in enumerate(tokens[1:]):
            assert token["logprob"] == pytest.approx(float(expected[place, token["token_id"]]), abs=1e-3)
            likeliest = expected[place].topk(most).values.tolist()
            assert [other["logprob"] for other in token["top"]] == pytest.approx(likeliest, abs=1e-3)
