"""The rows of the bench: prompts of a fixed seed, each with the exact number of tokens that it is to be answered with.

A workload is a JSONL file of {prompt, max_tokens} (and `turns` for G): what every contender reads. Texts are plain prompts,
without a chat template, so that all of them tokenize the same characters. Lengths are exact because of `ignore_eos`.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

JOBS = Path(__file__).parents[2] / "jobs"
TINY = JOBS / "models" / "tiny-karakuri"
SWEEP = {"verbosity": [0, 2, 4], "complexity": [0, 2, 4], "humor": [0, 2, 4], "creativity": [0, 2, 4]}
WORDS = "tea garden winter music bread river train morning window letter market bicycle mountain kitchen story".split()  # noqa: SIM905
GREEDY: dict[str, float] = {"temperature": 0.0}
SAMPLED = {"temperature": 0.7, "top_p": 0.95}
"""Of every row of a `--sampled` run. batchgen seeds each row, as it does by default; the others have no seeds."""
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
    if name == "C":
        texts = list(itertools.islice(_texts(3, 150, 150), max(1, rows // 81)))
        points = [dict(zip(SWEEP, values, strict=True)) for values in itertools.product(*SWEEP.values())]
        made = [{"prompt": text + _block(point), "max_tokens": length} for text in texts for point in points]
        attributes = {"schema": {"names": list(SWEEP), "layout": LAYOUT}, "sweep": SWEEP}
        job_rows = [{"prompt": text, "max_tokens": length} for text in texts]
        return Workload("C", f"{len(texts)} prompts x 81 combinations", made, {"attributes": attributes}, job_rows)
    if name == "D":
        system = next(_texts(4, 230, 230))
        texts = itertools.islice(_texts(5, 4, 16), rows)
        made = [{"prompt": system + "\n\n" + text, "max_tokens": length} for text in texts]
        return Workload("D", "one system prompt of 600 tokens", made)
    if name == "E":
        return replace(make("B", rows, length), name="E", what=f"one giant shard, lognormal, mean {length} tokens")
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
        _copy_tokenizer(folder)
    return folder


def make_karakuri(folder: Path, layers: int) -> Path:
    """KARAKURI LM 70B's architecture (its model card) with fewer layers and no weights, for `load_format: dummy`; a layer has
    0.86 G parameters, embedding and head 0.74 G together. The tokenizer is the tiny model's."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 45416,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _copy_tokenizer(folder)
    return folder


def _copy_tokenizer(folder: Path) -> None:
    for file in (*TINY.glob("token*.json"), TINY / "generation_config.json", TINY / "chat_template.jinja"):
        shutil.copy(file, folder)
