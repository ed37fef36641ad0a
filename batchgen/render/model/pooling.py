"""What a model's files say of the numbers that it gives for a text, read as vLLM 0.32 and Transformers read them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from batchgen.errors import ModelError
from batchgen.job.fields import Fields
from batchgen.job.job import Job
from batchgen.render.model.context import of_text
from batchgen.render.model.files import AGAIN, read_json, read_text

SIZES = ("hidden_size", "d_model", "n_embd", "dim")  # of the last layer, by kind of model
DENSE = ("sentence_transformers.models.Dense", "sentence_transformers.base.modules.dense.Dense", "pylate.models.Dense.Dense")
FILES = ["modules.json", "*Dense*/config.json", "sentence_*_config.json"]


@dataclass(frozen=True)
class PoolingFiles:
    """`dimensions` of an embedding, None where the files do not say. `shorter`: the Matryoshka dimensions; (): any, None: the
    model has no shorter ones. `labels` of a classifier, in order. `context` where it is another than for generation. `cuts_left`:
    long texts lose their beginning. `has_types`: the model is told the texts of a pair apart; `joins`: it reads them as one."""

    dimensions: int | None = None
    shorter: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()
    context: int | None = None
    cuts_left: bool = False
    has_types: bool = False
    joins: bool = False

    def refuse_dimensions(self, job: Job, label: str) -> None:
        """Raises ModelError for `pooling.dimensions` that the model does not have, unless the engine's options say otherwise."""
        wanted = job.pooling.dimensions
        if wanted is None or "hf_overrides" in job.engine.options:
            return
        if self.shorter is None:
            cause = f"pooling.dimensions {wanted}: {label} does not say that its embeddings can be cut (Matryoshka)"
            raise ModelError(cause, "leave it out, or set engine.options.hf_overrides: {is_matryoshka: true}")
        if (self.shorter and wanted not in self.shorter) or wanted > (self.dimensions or wanted):
            has = ", ".join(map(str, self.shorter)) or f"up to {self.dimensions}"
            raise ModelError(f"pooling.dimensions {wanted}: the embeddings of {label} have {has}", "choose one of these")


def pooling_files(folder: Path, settings: Fields) -> PoolingFiles:
    """Of the model in a folder; `settings` is tokenizer_config.json. What the files have in another form than these programs
    write is as good as not there: a model that generates does not need it. Raises ModelError for a file that is no JSON."""
    config = read_json(folder / "config.json")
    text = of_text(folder / "config.json", config)
    sizes = [config.get("embedding_size"), *reversed([*_dense(folder)]), *(text.get(name) for name in SIZES)]
    shorter = config.get("matryoshka_dimensions")
    names, types = settings.get("model_input_names"), config.get("type_vocab_size")
    return PoolingFiles(
        dimensions=next((size for size in sizes if _is_count(size)), None),
        shorter=tuple(shorter) if isinstance(shorter, list) and shorter else () if config.get("is_matryoshka") is True else None,
        labels=_labels(config),
        context=_context(folder, config, settings),
        cuts_left=settings.get("truncation_side") == "left",
        has_types=_is_count(types) and types >= 2 and (not isinstance(names, list) or "token_type_ids" in names),
        joins=config.get("use_sep_token") is False,
    )


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 2**31


def _dense(folder: Path) -> Iterator[object]:
    """The sizes after each Dense module of sentence-transformers."""
    for module in _modules(folder):
        if module.get("type") in DENSE:
            yield read_json(folder / str(module.get("path", "")) / "config.json").get("out_features")


def module_folders(folder: Path) -> list[Path]:
    """The folders of sentence-transformers' layers after the model, which are part of it."""
    paths = [folder / str(module["path"]) for module in _modules(folder) if module.get("path")]
    return sorted(path for path in paths if path.is_dir())


def _modules(folder: Path) -> list[Fields]:
    try:
        modules = json.loads(read_text(folder / "modules.json"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ModelError(f"{folder / 'modules.json'}: not JSON: {error}", AGAIN) from None
    return [module for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []


def _labels(config: Fields) -> tuple[str, ...]:
    """The names in id2label, or LABEL_0, LABEL_1, ... as Transformers calls them."""
    given = config.get("id2label")
    if isinstance(given, dict) and sorted(given) == sorted(map(str, range(len(given)))):
        return tuple(str(given[str(number)]) for number in range(len(given)))
    count = config.get("num_labels")
    return tuple(f"LABEL_{number}" for number in range(count if _is_count(count) else 2))


def _context(folder: Path, config: Fields, settings: Fields) -> int | None:
    """The limit of sentence-transformers, or the tokenizer's where positions are absolute; None where neither says one."""
    for path in sorted(folder.glob("sentence_*_config.json")):
        if _is_count(limit := read_json(path).get("max_seq_length")):
            return limit
    limit = settings.get("model_max_length")
    positions = config.get("max_position_embeddings")
    if config.get("position_embedding_type") == "absolute" and _is_count(limit) and _is_count(positions):
        return min(limit, positions)
    return None
