"""One contender, one process: read rows.jsonl, answer every row, write a file. Run by throughput.py.

    python tests/bench/contenders.py NAME SETTINGS.json

SETTINGS: folder (of the workload), model, options (vLLM's engine options, the same for all), out, replicas, gpus of
each, job (batchgen's fields for the workload), sampling (GREEDY or SAMPLED of workloads.py).
Every contender reads the same texts and is asked for the same lengths; `ignore_eos`. Only batchgen seeds rows.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Settings = dict[str, Any]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def _rows(settings: Settings) -> list[dict[str, Any]]:
    with open(Path(settings["folder"]) / "rows.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def asked(settings: Settings, row: dict[str, Any]) -> dict[str, Any]:
    """A row's sampling, in vLLM's names."""
    return {**settings["sampling"], "ignore_eos": True, "max_tokens": row["max_tokens"]}


def _params(settings: Settings, row: dict[str, Any], **more: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**asked(settings, row), **more)


def _write(settings: Settings, rows: list[dict[str, Any]], answers: list[Any]) -> None:
    with open(settings["out"], "w", encoding="utf-8") as file:
        for row, answer in zip(rows, answers, strict=True):
            file.write(json.dumps({**row, "response": answer}) + "\n")


def llm(settings: Settings) -> None:
    """vLLM LLM.generate over all rows at once; several turns as one call per turn."""
    from vllm import LLM

    engine = LLM(model=settings["model"], **settings["options"])
    rows = _rows(settings)
    params = [_params(settings, row) for row in rows]
    if "turns" not in rows[0]:
        outputs = engine.generate([row["prompt"] for row in rows], params, use_tqdm=False)
        return _write(settings, rows, [output.outputs[0].text for output in outputs])
    talks = ["" for _ in rows]
    for turn in range(len(rows[0]["turns"])):
        talks = [f"{talk}{row['turns'][turn]}\n" for talk, row in zip(talks, rows, strict=True)]
        outputs = engine.generate(talks, params, use_tqdm=False)
        talks = [f"{talk}{output.outputs[0].text}\n" for talk, output in zip(talks, outputs, strict=True)]
    _write(settings, rows, talks)


def async_llm(settings: Settings) -> None:
    """AsyncLLM, saturated: a coroutine per row, final outputs only."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    async def main() -> None:
        engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(model=settings["model"], disable_log_stats=True, **settings["options"])
        )
        rows = _rows(settings)

        async def answer(number: int, text: str) -> str:
            params = _params(settings, rows[number], output_kind=RequestOutputKind.FINAL_ONLY)
            async for output in engine.generate(text, params, f"{number}-{len(text)}"):
                final = output
            return str(final.outputs[0].text)

        async def talk(number: int, row: dict[str, Any]) -> str:
            if "turns" not in row:
                return await answer(number, row["prompt"])
            text = ""
            for turn in row["turns"]:
                text += turn + "\n"
                text += await answer(number, text) + "\n"
            return text

        _write(settings, rows, await asyncio.gather(*(talk(*pair) for pair in enumerate(rows))))
        engine.shutdown()

    asyncio.run(main())


def run_batch(settings: Settings) -> None:
    """vLLM's OpenAI batch runner, on /v1/chat/completions (it has no completions) with a template that adds nothing."""
    source = Path(settings["folder"]) / "batch.jsonl"
    template = Path(settings["folder"]) / "bare.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    with open(source, "w", encoding="utf-8") as file:
        for number, row in enumerate(_rows(settings)):
            messages = [{"role": "user", "content": row["prompt"]}]
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions"}
            line["body"] = {"model": settings["model"], "messages": messages, **asked(settings, row)}
            file.write(json.dumps(line) + "\n")
    flags = []
    for name, value in settings["options"].items():
        flag = name.replace("_", "-")
        flags += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    command = ["-m", "vllm.entrypoints.openai.run_batch", "-i", str(source), "-o", settings["out"], "--model", settings["model"]]
    flags += ["--chat-template", str(template)]
    os.execv(sys.executable, [sys.executable, "-W", "ignore", *command, *flags])


def _ray_data(settings: Settings, cpus: int | None = None, **config: Any) -> None:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=settings["model"],
            engine_kwargs=settings["options"],
            concurrency=settings["replicas"],
            placement_group_config={
                "bundles": [{"CPU": 1, "GPU": 1} if settings["gpus"] else {"CPU": 1}] * max(1, settings["gpus"])
            },
            chat_template_stage=False,
            **config,
        ),
        preprocess=lambda row: {
            "prompt": row["prompt"],
            "sampling_params": {**asked(settings, row), "detokenize": True},
        },
        postprocess=lambda row: {"prompt": row["prompt"], "response": row["generated_text"]},
    )
    processor(ray.data.read_json(str(Path(settings["folder"]) / "rows.jsonl"))).write_parquet(settings["out"])


def ray_default(settings: Settings) -> None:
    """ray.data.llm as it comes: batches of 32, 8 at a time, tokenize and detokenize stages on. Ray is told of four CPUs at least,
    since its actors ask for three."""
    # With its metrics on, the engine does not start in this version.
    _ray_data(settings, cpus=max(4, os.cpu_count() or 1), log_engine_metrics=False)


def ray_tuned(settings: Settings) -> None:
    """ray.data.llm, 256 x 8, without its tokenize and detokenize stages."""
    stages = {"tokenize_stage": False, "detokenize_stage": False}
    _ray_data(settings, batch_size=256, max_concurrent_batches=8, log_engine_metrics=False, **stages)


def daft_vllm(settings: Settings) -> None:
    """Daft's vllm-prefix-caching provider; one length for all rows."""
    import daft
    from daft import col
    from daft.functions import prompt

    params = _params(settings, _rows(settings)[0])
    frame = daft.read_json(str(Path(settings["folder"]) / "rows.jsonl"))
    answer = prompt(
        col("prompt"),
        provider="vllm-prefix-caching",
        model=settings["model"],
        concurrency=settings["replicas"],
        gpus_per_actor=settings["gpus"],
        engine_args=settings["options"],
        generate_args={"sampling_params": params},
    )
    frame.with_column("response", answer).write_parquet(settings["out"])


def transformers(settings: Settings) -> None:
    """A loop over batches of 32 with transformers' generate, sorted by length as its users do."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.bfloat16)
    rows = sorted(_rows(settings), key=lambda row: -row["max_tokens"])
    answers: list[str] = []
    began = time.time()
    for low in range(0, len(rows), 32):
        batch = rows[low : low + 32]
        inputs = tokenizer([row["prompt"] for row in batch], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        most = batch[0]["max_tokens"]
        with torch.inference_mode():
            how = {"do_sample": True, **settings["sampling"]} if settings["sampling"]["temperature"] else {"do_sample": False}
            made = model.generate(**inputs, **how, min_new_tokens=most, max_new_tokens=most)
        answers += tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    stamps = {"first": began, "last": time.time(), "requests": len(rows), "tokens": sum(row["max_tokens"] for row in rows)}
    (Path(os.environ["BENCH_STAMPS"]) / "own.json").write_text(json.dumps(stamps))
    _write(settings, rows, answers)


def batchgen_job(settings: Settings) -> dict[str, Any]:
    """The fields of batchgen's job. `sampling.seed` is left at its default: a seed per row."""
    folder = Path(settings["folder"])
    turns = "turns" in _rows(settings)[0]
    options = dict(settings["options"])
    ranks = options.pop("tensor_parallel_size", 1)
    return {
        "input": {"path": str(folder / "job_rows.jsonl"), "turns" if turns else "prompt": "turns" if turns else "prompt"},
        "model": {"source": settings["model"], "chat_template": str(folder / "plain.jinja") if turns else "none"},
        "engine": {"tensor_parallel_size": ranks, "options": options},
        "sampling": asked(settings, {"max_tokens": {"column": "max_tokens"}}),
        "replicas": {"max": settings["replicas"]},
        "output": {"path": settings["out"]},
        **settings["job"],
    }


def batchgen(settings: Settings) -> None:
    """batchgen, as a user runs it: one job file, one command."""
    folder = Path(settings["folder"])
    (folder / "plain.jinja").write_text(TEMPLATE)
    (folder / "job.yaml").write_text(json.dumps(batchgen_job(settings)))
    os.execv(sys.executable, [sys.executable, "-m", "batchgen", "run", str(folder / "job.yaml")])


def batchgen_plain(settings: Settings) -> None:
    """batchgen with rows in plain order (known lengths have no effect)."""
    batchgen({**settings, "options": {**settings["options"], "scheduling_policy": "fcfs"}})


def batchgen_unshared(settings: Settings) -> None:
    """batchgen on the same rows shuffled, without a prefix cache and without the sweep that keeps variants together."""
    folder = Path(settings["folder"])
    rows = _rows(settings)
    random.Random(11).shuffle(rows)
    (folder / "shuffled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"input": {"path": str(folder / "shuffled.jsonl"), "prompt": "prompt"}}
    batchgen({**settings, "job": source, "options": {**settings["options"], "enable_prefix_caching": False}})


CONTENDERS: dict[str, Callable[[Settings], None]] = {
    "LLM.generate": llm,
    "AsyncLLM": async_llm,
    "run-batch": run_batch,
    "ray.data.llm": ray_default,
    "ray.data.llm tuned": ray_tuned,
    "Daft": daft_vllm,
    "transformers": transformers,
    "batchgen": batchgen,
    "batchgen plain": batchgen_plain,
    "batchgen unshared": batchgen_unshared,
}

if __name__ == "__main__":
    CONTENDERS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
