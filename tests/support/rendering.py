"""What the tests of rendering have in common: the tiny model and bare templates, the texts they lead to, rows made prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgen.job.job import Job
from batchgen.read.layouts import JobLayout
from batchgen.records import Prompt, Row
from batchgen.render.model_files import ModelFiles, load_model
from batchgen.render.renderer import Renderer

TINY = Path(__file__).parents[2] / "jobs/models/tiny-karakuri"
TOKENIZER = (TINY / "tokenizer.json").read_text(encoding="utf-8")
BOS, EOS, UNK = 1, 2, 0

BLOCK = (
    "[ATTR] helpfulness: 4 correctness: 4 coherence: 4 complexity: 4 verbosity: 4 "
    "quality: 4 toxicity: 0 humor: 0 creativity: 0 [/ATTR]"
)
# The conversation of the KARAKURI LM 70B Chat v0.1 model card, byte by byte.
CARD = (
    "<s>[INST] <<SYS>>\nSystem prompt\n<</SYS>>\n\nUser prompt [ATTR] helpfulness: 4 correctness: 4 coherence: 4 "
    "complexity: 4 verbosity: 4 quality: 4 toxicity: 0 humor: 0 creativity: 0 [/ATTR] [/INST] Model response </s>"
    "<s>[INST] User prompt [ATTR] helpfulness: 4 correctness: 4 coherence: 4 complexity: 4 verbosity: 4 quality: 4 "
    "toxicity: 0 humor: 0 creativity: 0 [/ATTR] [/INST]"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ARGUMENTS = "{{ messages[-1]['content'] }} v={{ verbosity }} h={{ humor }}"
TWO: dict[str, Any] = {"names": ["verbosity", "humor"]}


def make_job(**fields: Any) -> Job:
    given = {"input": {"path": "in.jsonl", "prompt": "prompt"}, "engine": {"kind": "echo"}, "output": {"path": "out"}}
    return Job.parse(given | fields)


def tiny(**fields: Any) -> Renderer:
    """A renderer with the tiny model's own template, its schema and its tokenizer."""
    job = make_job(**{"attributes": {"schema": "karakuri"}, "model": {"source": str(TINY)}} | fields)
    return Renderer(job, load_model(job.model), context=job.engine.options.get("max_model_len"))


def bare(template: str | None = None, **fields: Any) -> Renderer:
    """A renderer with the tiny model's tokenizer and `template`, or none."""
    files = ModelFiles("bare", None, None, TOKENIZER, template, {"bos_token": "<s>", "eos_token": "</s>"}, 2048, {})
    job = make_job(**fields)
    return Renderer(job, files, context=job.engine.options.get("max_model_len"))


def prompts(renderer: Renderer, ordinal: int = 0, **data: Any) -> list[Prompt]:
    row = JobLayout(renderer.job).lay_out(Row(ordinal, data), "in.jsonl")
    return renderer.prompts(row, "in.jsonl")


def one(renderer: Renderer, ordinal: int = 0, **data: Any) -> Prompt:
    [prompt] = prompts(renderer, ordinal, **data)
    return prompt


def error_of(prompt: Prompt) -> tuple[str, str]:
    assert prompt.error is not None
    return prompt.error.code, prompt.error.detail


def conversation(**values: int) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "System prompt"},
        {"role": "user", "content": "User prompt", **values},
        {"role": "assistant", "content": "Model response", **values},
        {"role": "user", "content": "User prompt", **values},
    ]
