"""Numbers that batchgen reads with vLLM against Transformers' own, row by row.

    python -m tests.bench.pooled [--rows 10000] [--tasks embed classify score]

The models are BERTs with random weights (tests/support/tiny_bert.py) in float32. Printed for each task: the smallest cosine
between the numbers of a row (of the column of scores, between all rows) and the largest difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from tests.support import tiny_bert

OPTIONS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 256}
LABELS: dict[str, tuple[str, ...]] = {"embed": (), "classify": ("good", "bad", "neither"), "score": ("relevant",)}
COLUMN = {"embed": "embedding", "classify": "probabilities", "score": "score"}
BATCH = 256


def ours(folder: Path, task: str) -> np.ndarray:
    from batchgen import run

    source = {"path": str(folder / "rows.jsonl"), "prompt": "text"} | ({"documents": "document"} if task == "score" else {})
    engine = {"kind": "vllm", "options": OPTIONS, "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    job = {"input": source, "model": str(folder / task), "engine": engine, "task": task, "output": str(folder / f"{task}.out")}
    run({**job, "replicas": {"max": 1}}, quiet=True)
    table = ds.dataset(folder / f"{task}.out/data", format="parquet").to_table(columns=["row", COLUMN[task]]).sort_by("row")
    column = table[COLUMN[task]]
    values = column.to_numpy() if pa.types.is_floating(column.type) else np.stack(column.to_numpy())
    return values.reshape(len(values), -1)


def theirs(folder: Path, task: str, rows: list[dict[str, str]]) -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    kind = AutoModel if task == "embed" else AutoModelForSequenceClassification
    tokenizer = AutoTokenizer.from_pretrained(folder / task)
    model = kind.from_pretrained(folder / task, dtype=torch.float32).eval()
    made: list[Any] = []
    with torch.no_grad():
        for low in range(0, len(rows), BATCH):
            some = rows[low : low + BATCH]
            texts = [[row["text"] for row in some], *([[row["document"] for row in some]] if task == "score" else [])]
            out = model(**tokenizer(*texts, return_tensors="pt", padding=True))
            if task == "embed":
                made.append(torch.nn.functional.normalize(out.last_hidden_state[:, 0], dim=-1))
            else:
                made.append(out.logits.softmax(-1) if task == "classify" else out.logits.sigmoid())
    return np.concatenate([one.numpy() for one in made])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=10_000)
    options.add_argument("--tasks", nargs="+", default=list(LABELS), choices=list(LABELS))
    given = options.parse_args()
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    dice = random.Random(0)
    words = [word for word in tiny_bert.WORDS.split() if not word.startswith("##")]
    texts = [" ".join(dice.choices(words, k=dice.randint(3, 28))) for _ in range(2 * given.rows)]
    rows = [{"text": text, "document": document} for text, document in zip(texts[::2], texts[1::2], strict=True)]
    print("| task | rows | cosine, at least | difference, at most |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for task in given.tasks:
            tiny_bert.make(folder / task, LABELS[task])
            one, other = (found.astype(np.float64) for found in (ours(folder, task), theirs(folder, task, rows)))
            pairs = (one.T, other.T) if task == "score" else (one, other)
            lengths = np.linalg.norm(pairs[0], axis=-1) * np.linalg.norm(pairs[1], axis=-1)
            cosine = ((pairs[0] * pairs[1]).sum(-1) / lengths).min()
            print(f"| {task} | {len(rows):,} | {cosine:.6f} | {np.abs(one - other).max():.1e} |", flush=True)


if __name__ == "__main__":
    main()
