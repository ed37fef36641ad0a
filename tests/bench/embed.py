"""Embeddings: batchgen's task `embed` against vLLM's own LLM.embed, the same rows and engine arguments, in turn.

    python -m tests.bench.embed [--rows 10000] [--words 24] [--repeats 3] [--layers 3] [--hidden 128]

The model is a BERT with random weights. Each contender runs in a process of its own, one after the other (1, 2, 1, 2, ...).
Seconds: of LLM.embed its call, texts to vectors; of batchgen from the first row into the engine to the last one out of it, as its
report has them. The ratio is the median over the pairs of LLM.embed's seconds to batchgen's: over 1, batchgen is faster. The
vectors of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from tests.support import tiny_bert

OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 4096,
    "enable_chunked_prefill": False,
}
ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}


def batchgen(folder: Path, out: Path) -> tuple[float, np.ndarray]:
    from batchgen import run

    job = {
        "input": {"path": str(folder / "rows.jsonl"), "prompt": "text"},
        "model": str(folder / "model"),
        "engine": {"kind": "vllm", "options": OPTIONS},
        "task": "embed",
        "output": str(out),
        "replicas": {"max": 1},
    }
    seconds = run(job, quiet=True)["seconds_generating"]
    table = ds.dataset(out / "data", format="parquet").to_table(columns=["row", "embedding"]).sort_by("row")
    return seconds, np.stack(table["embedding"].to_numpy())


def llm_embed(folder: Path, out: Path) -> tuple[float, np.ndarray]:
    from vllm import LLM

    texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text().splitlines()]
    llm = LLM(str(folder / "model"), runner="pooling", convert="embed", **OPTIONS)
    began = time.perf_counter()
    found = llm.embed(texts, use_tqdm=False)
    return time.perf_counter() - began, np.asarray([one.outputs.embedding for one in found], np.float32)


CONTENDERS = {"batchgen": batchgen, "LLM.embed": llm_embed}


def once(name: str, folder: Path) -> tuple[float, np.ndarray]:
    """A contender in a process of its own: its seconds and its vectors."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "tests.bench.embed", "--one", name, str(folder), out]
        done = subprocess.run(command, env={**os.environ, **ENV}, capture_output=True, text=True, check=False)
        if not done.stdout.strip():  # vLLM's process may abort as it ends, after all is told
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        return float(done.stdout.split()[-1]), np.load(Path(out) / "vectors.npy")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 10_000), ("words", 24), ("repeats", 3), ("layers", 3), ("hidden", 128)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        name, folder, out = given.one
        seconds, vectors = CONTENDERS[name](Path(folder), Path(out) / "out")
        np.save(Path(out) / "vectors.npy", vectors)
        print(seconds, flush=True)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tiny_bert.make(folder / "model", num_hidden_layers=given.layers, hidden_size=given.hidden)
        dice = random.Random(0)
        words = [word for word in tiny_bert.WORDS.split() if not word.startswith("##")]
        texts = [" ".join(dice.choices(words, k=dice.randint(given.words // 2, given.words * 3 // 2))) for _ in range(given.rows)]
        (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        vectors: dict[str, np.ndarray] = {}
        for _ in range(given.repeats):
            for name in CONTENDERS:
                taken, vectors[name] = once(name, folder)
                seconds[name].append(taken)
    ratio = statistics.median(other / ours for ours, other in zip(*seconds.values(), strict=True))
    furthest = float(np.abs(vectors["batchgen"] - vectors["LLM.embed"]).max())
    print(f"| {given.rows:,} rows | seconds, median | rows/s | each run |\n|---|---|---|---|")
    for name, each in seconds.items():
        median = statistics.median(each)
        print(f"| {name} | {median:.2f} | {given.rows / median:,.0f} | {' '.join(f'{one:.2f}' for one in each)} |")
    print(f"ratio {ratio:.2f}; the vectors differ by {furthest:.1e} at most")


if __name__ == "__main__":
    main()
