"""The rows of the bench: prompts of a fixed seed, each with the exact number of tokens that it is to be answered with.

A workload is a JSONL file of {prompt, max_tokens} (and `turns` for G): what every contender reads. Texts are plain prompts,
without a chat template, so that all of them tokenize the same characters. Lengths are exact because of `ignore_eos`.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

JOBS = Path(__file__).parents[2] / "jobs"
TINY = JOBS / "models" / "tiny-karakuri"
SWEEP = {"verbosity": [0, 2, 4], "complexity": [0, 2, 4], "humor": [0, 2, 4], "creativity": [0, 2, 4]}
WORDS = "tea garden winter music bread river train morning window letter market bicycle mountain kitchen story".split()  # noqa: SIM905
LAYOUT = {"block": " [ATTR] {pairs} [/ATTR]"}


@dataclass(frozen=True)
class Workload:
    """`rows` as the contenders read them. `job` holds batchgen's own fields where it is to do more than a prompt column."""

    name: str
    what: str
    rows: list[dict[str, Any]]
    job: dict[str, Any] = field(default_factory=dict)
    job_rows: list[dict[str, Any]] | None = None

    @property
    def tokens(self) -> int:
        return sum(row["max_tokens"] * len(row.get("turns", [None])) for row in self.rows)

    @property
    def requests(self) -> int:
        return sum(len(row.get("turns", [None])) for row in self.rows)


def _texts(seed: int, low: int, high: int) -> Iterator[str]:
    dice = random.Random(seed)
    while True:
        yield "Tell me about " + " ".join(dice.choices(WORDS, k=dice.randint(low, high))) + "."


def make(name: str, rows: int, length: int) -> Workload:
    """Workload `name` (A to G) of about `rows` rows whose answers have `length` tokens (mean, or all of them)."""
    dice = random.Random(7)
    if name == "A":
        texts = itertools.islice(_texts(1, 4, 16), rows)
        return Workload("A", f"uniform, {length} tokens", [{"prompt": t, "max_tokens": length} for t in texts])
    if name == "B":
        sigma = 0.8
        texts = itertools.islice(_texts(2, 4, 16), rows)
        lengths = [int(dice.lognormvariate(math.log(length) - sigma**2 / 2, sigma)) for _ in range(rows)]
        made = [{"prompt": t, "max_tokens": min(max(n, 2), 12 * length)} for t, n in zip(texts, lengths, strict=True)]
        return Workload("B", f"lognormal, mean {length} tokens", made)
    if name in ("C", "C shuffled"):
        texts = list(itertools.islice(_texts(3, 150, 150), max(1, rows // 81)))
        points = [dict(zip(SWEEP, values, strict=True)) for values in itertools.product(*SWEEP.values())]
        made = [{"prompt": text + _block(point), "max_tokens": length} for text in texts for point in points]
        if name == "C shuffled":
            dice.shuffle(made)
            return Workload(name, "the rows of C, shuffled, prefix cache off", made)
        attributes = {"schema": {"names": list(SWEEP), "layout": LAYOUT}, "sweep": SWEEP}
        return Workload(
            "C", f"{len(texts)} prompts x 81 combinations", made, {"attributes": attributes}, [{"prompt": t} for t in texts]
        )
    if name in ("D", "D unshared"):
        system = next(_texts(4, 500, 500))
        texts = itertools.islice(_texts(5, 4, 16), rows)
        what = "one system prompt of 600 tokens" + (", prefix cache off" if name == "D unshared" else "")
        return Workload(name, what, [{"prompt": system + "\n\n" + t, "max_tokens": length} for t in texts])
    if name == "F":
        texts = itertools.islice(_texts(6, 4, 16), rows)
        return Workload("F", "one-token labels", [{"prompt": t, "max_tokens": 1} for t in texts])
    if name == "G":
        source = _texts(8, 4, 16)
        made = [{"turns": [next(source) for _ in range(3)], "max_tokens": length} for _ in range(rows)]
        return Workload("G", "three turns", made)
    raise ValueError(f"no workload {name!r}")


def _block(point: dict[str, int]) -> str:
    return LAYOUT["block"].replace("{pairs}", " ".join(f"{name}: {value}" for name, value in point.items()))


def write(workload: Workload, folder: Path) -> None:
    """`rows.jsonl` for all, `job_rows.jsonl` for batchgen."""
    for file, rows in (("rows.jsonl", workload.rows), ("job_rows.jsonl", workload.job_rows or workload.rows)):
        with open(folder / file, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)


def make_llama(folder: Path) -> Path:
    """A random Llama of 100 M parameters with the tiny model's tokenizer, made once."""
    if not (folder / "model.safetensors").exists():
        import shutil

        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        vocabulary = json.loads((TINY / "config.json").read_text())["vocab_size"]
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=14,
            num_attention_heads=12,
            num_key_value_heads=12,
            max_position_embeddings=2048,
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
        for file in TINY.glob("token*.json"):
            shutil.copy(file, folder)
        shutil.copy(TINY / "generation_config.json", folder)
    return folder
