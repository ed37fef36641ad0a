"""What of a stored job opens a door: it runs code, reads or writes files, or sends rows and keys somewhere.

An output may come from somebody else. Its job file is believed in what rows mean, which the parts show; where a run connects to,
what it loads, and its environment are only taken from a job file of the caller's own, or on the caller's word."""

from collections.abc import Iterable, Iterator

from batchgen.errors import InputError
from batchgen.job.fields import Fields
from batchgen.job.job import Job
from batchgen.job.meaning import flatten
from batchgen.job.model import Model
from batchgen.job.replicas.engine import Engine

WORDS = {
    *("dtype", "quantization", "kv_cache_dtype", "tokenizer_mode", "max_tokens_field", "distribution"),
    *("start_error", "reject_on", "die_on", "kill_on", "hang_on", "freeze_on"),
}
"""Options of engines whose text is one of a few words, or is only compared. Any other text may be an address, a path, the name of
a class or of a variable; numbers and switches open nothing."""


def refuse_doors(stored: Job, said: Iterable[str], origin: str) -> None:
    """`said` are the dotted keys that the caller sets. Raises InputError with the fields of a stored job that open a door."""
    keys = tuple(said)
    found = [
        f"{name}: {value!r}"[:200] for name, value in _doors(stored) if not any(f"{name}.".startswith(f"{key}.") for key in keys)
    ]
    if found:
        lines = "\n".join(f"  {one}" for one in found)
        what = f"{origin}: its stored job says where a run connects to, or what it loads:\n{lines}"
        raise InputError(f"{what}\nname your own job file with --job", "or take it from the output with --trust-stored")


def _doors(job: Job) -> Iterator[tuple[str, object]]:
    yield from _of_engine(job.engine, "engine")
    for number, group in enumerate(job.replicas.groups):
        yield from _of_options(group.engine.options, f"replicas.groups.{number}.engine.options")
    if job.input.before is not None:
        yield "input.before", job.input.before
    if job.parse_ is not None and job.parse_.after is not None:
        yield "parse.after", job.parse_.after
    if job.accept is not None and job.accept.function is not None:
        yield "accept.function", job.accept.function
    if job.replicas.env_from:
        yield "replicas.env_from", job.replicas.env_from
    yield from _of_model(job.model, "model")
    if job.accept is not None and job.accept.judge is not None:
        yield from _of_model(job.accept.judge.model, "accept.judge.model")
        yield from _of_engine(job.accept.judge.engine, "accept.judge.engine")


def _of_engine(engine: Engine | None, field: str) -> Iterator[tuple[str, object]]:
    if engine is not None:
        yield from _of_options(engine.options, f"{field}.options")
        yield from flatten(engine.env, f"{field}.env").items() if engine.env else ()


def _of_options(options: Fields, field: str) -> Iterator[tuple[str, object]]:
    for name, value in flatten(options, field).items():
        harmless = value is None or isinstance(value, bool | int | float) or value == {} or name.rpartition(".")[2] in WORDS
        if not harmless or name.rpartition(".")[2] == "trust_remote_code":
            yield name, value


def _of_model(model: Model | None, field: str) -> Iterator[tuple[str, object]]:
    if model is not None:
        yield from ((f"{field}.adapters.{name}", path) for name, path in model.adapters.items())
        if model.trust_remote_code:
            yield f"{field}.source", model.source
        if model.chat_template not in (None, "none"):
            yield f"{field}.chat_template", model.chat_template
