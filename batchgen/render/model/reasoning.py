"""How a model marks its reasoning, and which of vLLM's parsers reads it: by its type, else by the marks in its chat template."""

from batchgen.job.model import Marks

PARSERS = {
    "cohere2_moe": "cohere_command4",
    "deepseek_v3": "deepseek_r1",
    "deepseek_v32": "deepseek_v3",
    "deepseek_v4": "deepseek_v4",
    "ernie4_5": "ernie45",
    "ernie4_5_moe": "ernie45",
    "gemma4": "gemma4",
    "glm4_moe": "glm45",
    "gpt_oss": "openai_gptoss",
    "granite": "granite",
    "hunyuan_v1_moe": "hunyuan_a13b",
    "kimi_k2": "kimi_k2",
    "mimo": "qwen3",
    "minimax_m2": "minimax_m2",
    "mistral3": "mistral",
    "nemotron_h": "nemotron_v3",
    "olmo3": "olmo3",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "qwen3_next": "qwen3",
    "seed_oss": "seed_oss",
    "step3_text": "step3",
}
"""The reasoning parser of vLLM by `model_type` of config.json, where a model of the type may think
(https://docs.vllm.ai/en/latest/features/reasoning_outputs.html)."""
COMMON = Marks()
KNOWN = (COMMON, Marks(start="<seed:think>", end="</seed:think>"), Marks(start="[THINK]", end="[/THINK]"))
R1_TEMPLATES = "deepseek_r1"  # the parser for any model that puts its reasoning between <think> and </think>


def parser_of(model_type: str, template: str | None) -> str | None:
    """The parser for a model that thinks; None where neither its type nor its template tells."""
    marks = marks_of(template)
    if model_type in PARSERS and (marks is not None or model_type == "gpt_oss"):
        return PARSERS[model_type]
    return R1_TEMPLATES if marks == COMMON else None


def marks_of(template: str | None) -> Marks | None:
    """The marks that a chat template speaks of."""
    return next((marks for marks in KNOWN if template and marks.end in template), None)
