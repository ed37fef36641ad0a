"""What of a stored job opens a door: it runs code, reads or writes files, or sends rows and keys somewhere.

An output may come from somebody else. Its job file is believed in what rows mean, which the parts show; where a run connects to,
what it loads, and its environment are only taken from a job file of the caller's own, or on the caller's word."""

from collections.abc import Iterable, Iterator

from batchgen.errors import InputError
from batchgen.job.job import Job
from batchgen.job.meaning import flatten

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
    options = flatten(job.engine.options, "engine.options")
    for number, group in enumerate(job.replicas.groups):
        options |= flatten(group.engine.options, f"replicas.groups.{number}.engine.options")
    for name, value in options.items():
        harmless = value is None or isinstance(value, bool | int | float) or value == {} or name.rpartition(".")[2] in WORDS
        if not harmless or name.rpartition(".")[2] == "trust_remote_code":
            yield name, value
    yield from flatten(job.engine.env, "engine.env").items() if job.engine.env else ()
    if job.input.before is not None:
        yield "input.before", job.input.before
    if job.parse_ is not None and job.parse_.after is not None:
        yield "parse.after", job.parse_.after
    if job.accept is not None and job.accept.function is not None:
        yield "accept.function", job.accept.function
    if job.replicas.env_from:
        yield "replicas.env_from", job.replicas.env_from
    if job.model is not None:
        yield from ((f"model.adapters.{name}", path) for name, path in job.model.adapters.items())
        if job.model.trust_remote_code:
            yield "model.source", job.model.source
        if job.model.chat_template not in (None, "none"):
            yield "model.chat_template", job.model.chat_template
