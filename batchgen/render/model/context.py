"""The context of a model in tokens, as vLLM 0.32 derives it from config.json for a job without `max_model_len`. The limit in
tokenizer_config.json is left out: vLLM asks it of embedding models only. So is a sliding window: vLLM takes it for the context
only under `disable_sliding_window`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batchgen import logs
from batchgen.render.model.files import read_json, wrong

NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
INNER = ("thinker_config", "text_config", "llm_config", "language_config")  # of models that take images or sound as well
DEFAULT = 2048
_COUNTED = {"su", "longrope", "llama3", "yarn", "telechat3-yarn", "deepseek_yarn", "deepseek_llama_scaling"}
"""Kinds of RoPE scaling whose factor is in the numbers of config.json already."""
_LOG = logs.logger("model")


def context_of(folder: Path) -> int | None:
    """None without config.json, which is no model for vLLM. Raises ModelError for a number that vLLM does not start with."""
    path = folder / "config.json"
    config = read_json(path)
    if not path.is_file():
        return None
    text = of_text(path, config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    numbers = _numbers(path, text) or _numbers(path, _completed(kind, text)) or _numbers(path, config)
    if not numbers:
        _LOG.warning("%s: none of %s there: vLLM takes a context of %d tokens", path, ", ".join(NAMES), DEFAULT)
    context = numbers.get("model_max_length") or min(numbers.values(), default=DEFAULT)  # Command-R's is the one that counts
    forms = list(_rope(path, text))
    if any(form["rope_type"] in ("su", "longrope") for form in forms):  # vLLM keeps short prompts as good as they were
        return _numbers(path, text, ("original_max_position_embeddings",)).get("original_max_position_embeddings", context)
    factors = [form["factor"] for form in forms if form["rope_type"] not in _COUNTED and "factor" in form]
    if not factors or factors[-1] is None or "gemma3" in kind:  # Gemma 3: as if it were in _COUNTED
        return context
    return max(1, int(context * _number(path, "the factor of rope_scaling", factors[-1])))


def of_text(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that describes the language model: itself for most."""
    for name in INNER:
        inner = config.get(name)
        if isinstance(inner, dict):
            return of_text(path, inner)
        if inner is not None:
            raise wrong(path, name, inner, "an object")
    return config


def _numbers(path: Path, config: Mapping[str, object], names: tuple[str, ...] = NAMES) -> dict[str, int]:
    found = {name: config[name] for name in names if config.get(name) is not None}
    return {name: int(_number(path, name, value, least=1)) for name, value in found.items()}


def _number(path: Path, name: str, value: object, least: float = 0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not max(least, 1e-9) <= value < 2**63:
        raise wrong(path, name, value, f"a number {'of tokens' if least else 'over 0'}")
    return value


def _completed(kind: str, text: dict[str, Any]) -> dict[str, object]:
    """The names with Transformers' own defaults for this kind of model: Gemma 3's files leave them out."""
    try:
        from transformers import AutoConfig

        made = AutoConfig.for_model(kind, **{name: value for name, value in text.items() if name != "model_type"})
        whole = made.get_text_config()
    except Exception:  # not installed, not known there, or values that it refuses
        return {}
    return {name: getattr(whole, name, None) for name in NAMES}


def _rope(path: Path, text: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """RoPE parameters: of the model, or of each kind of its layers."""
    given = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise wrong(path, "rope_scaling", given, "an object")
    nested = [form for form in given.values() if isinstance(form, dict)]
    for form in nested or [given]:
        yield {**form, "rope_type": str(form.get("rope_type", form.get("type")))}
