"""What a row costs on its way, stage by stage, without engine and network: CPU microseconds, the least of some runs.

    python tests/bench/row.py [--workload A] [--rows 4096] [--length 64] [--repeats 5]

Each stage with plain prompts and with the tiny model's chat template. The echo engine's own work, some 15 to 35 us, is in
the stage that has it. `detokenize` is what vLLM's front end does for each token of an answer, with the library that it uses.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from workloads import TINY, Workload, make, write

from batchgen.job.job import Job
from batchgen.output import parts
from batchgen.output.store import delete_all, open_store
from batchgen.plan import plan
from batchgen.prepare import prepare
from batchgen.read import reader
from batchgen.records import Completion, Receipt
from batchgen.records.columns import schema_of
from batchgen.render.blocks import encode_block, encode_span
from batchgen.render.tokens import TokenEncoder
from batchgen.replica import journal
from batchgen.replica.replica import Replica


def job_of(workload: Workload, folder: Path, chat: bool) -> Job:
    turns = "turns" in workload.rows[0]
    return Job.parse(
        {
            "input": {"path": str(folder / "job_rows.jsonl"), "turns" if turns else "prompt": "turns" if turns else "prompt"},
            "model": {"source": str(TINY), **({} if chat or turns else {"chat_template": "none"})},
            "engine": {"kind": "echo"},
            "sampling": {"ignore_eos": True, "max_tokens": {"column": "max_tokens"}},
            "replicas": {"max": 1},
            "output": {"path": str(folder / "out")},
            **workload.job,
        }
    )


def stages(job: Job) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each stage by its name, to be called in this order; what one makes is there for the next."""
    made, store = prepare(job), open_store(job.output.path)
    shards, spans = plan.make_plan(job, made.found, made.columns)
    [shard], renderer = shards, made.renderer
    schema = schema_of(job, made.columns.kept)
    encoder = TokenEncoder(renderer.model)

    found = list(reader.read_spans(job, shard, spans, made.columns.kept, renderer.needed))
    rows = [row for _, of_span, _ in found for row in of_span]
    prompts = [prompt for row in rows for prompt in renderer.prompts(row, shard.name)]
    blocks = [encode_block(span, encode_span(renderer, shard.name, of_span), kept) for span, of_span, kept in found]

    yield "plan (digest, line ends)", lambda: plan.make_plan(job, made.found, made.columns)
    yield "read", lambda: list(reader.read_spans(job, shard, spans, made.columns.kept, renderer.needed))
    yield "render and tokenize", lambda: [renderer.prompts(row, shard.name) for row in rows]
    yield "of it tokenize", lambda: [encoder.encode(prompt.text, "", False) for prompt in prompts]
    yield (
        "render, tokenize and encode as blocks",
        lambda: [encode_block(span, encode_span(renderer, shard.name, of_span), kept) for span, of_span, kept in found],
    )
    yield "put the blocks into the object store", lambda: [ray.put(block) for block in blocks]
    references = [ray.put(block) for block in blocks]
    yield "get them (no copy)", lambda: ray.get(references)
    yield "open a block", lambda: [_open(block) for block in blocks]

    def answered() -> list[Receipt]:
        async def scenario() -> list[Receipt]:
            replica = Replica(renderer, job.output.path, [shard.name])
            await replica.start()
            receipts = await asyncio.gather(*(replica.run(block) for block in blocks))
            await replica.stop()
            return receipts

        receipts = asyncio.run(scenario())
        delete_all(store, store.list(parts.DATA))
        return receipts

    yield "open, answer (echo engine), encode, commit", answered
    completions = [_completions(block) for block in blocks]
    opened = [
        tuple(pa.ipc.open_stream(block[name][0].as_buffer()).read_all() for name in ("prompts", "kept")) for block in blocks
    ]
    yield (
        "of it encode the parts",
        lambda: [
            parts.encode_part(*tables, done, schema, shard.name, "model", parts.footer_of(done))
            for tables, done in zip(opened, completions, strict=True)
        ],
    )
    yield "a journal of all rows", lambda: [journal.write(store, "span", done) for done in completions]


def _open(block: pa.Table) -> list[dict[str, Any]]:
    return pa.ipc.open_stream(block["prompts"][0].as_buffer()).read_all().to_pylist()


def _completions(block: pa.Table) -> list[Completion]:
    """An answer of each prompt, as long as its conversation."""
    return [
        Completion(
            prompt=index,
            sample=0,
            messages=({"role": "user", "content": "word " * 12}, {"role": "assistant", "content": "word " * 48}),
            response="word " * 48,
            finish_reason="length",
            prompt_tokens=len(row["token_ids"]),
            completion_tokens=row["sampling"]["max_tokens"],
            cumulative_logprob=None,
            prompt_hash="0" * 32,
            seconds=1.0,
            attempt=1,
        )
        for index, row in enumerate(_open(block))
    ]


def detokenizing(length: int) -> Callable[[], Any]:
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    ids = [17 * number % tokenizer.get_vocab_size() for number in range(length)]

    def decode() -> None:
        stream = DecodeStream(skip_special_tokens=True)
        for token in ids:
            stream.step(tokenizer, token)

    return decode


def least(call: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of the process, threads included; what is there already is frozen, as in a replica."""
    found = []
    for _ in range(repeats):
        gc.collect()
        gc.freeze()
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="A")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    workload = make(options.workload, options.rows, options.length)
    ray.init("local", include_dashboard=False, log_to_driver=False)
    costs: dict[str, list[float]] = {}
    for chat in (False, True):
        with tempfile.TemporaryDirectory() as name:
            write(workload, Path(name))
            for stage, call in stages(job_of(workload, Path(name), chat)):
                costs.setdefault(stage, []).append(least(call, options.repeats) / options.rows * 1e6)
    print(f"| {options.workload}, {options.rows:,} rows | us a row | with the model's chat template |\n|---|---|---|")
    for stage, (plain, chat) in costs.items():
        print(f"| {stage} | {plain:.1f} | {chat:.1f} |")
    per_answer = least(detokenizing(options.length), 200) * 1e6
    print(f"| detokenize {options.length} tokens (vLLM) | {per_answer:.1f} | {per_answer:.1f} |")


if __name__ == "__main__":
    main()
