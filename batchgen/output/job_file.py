"""`_batchgen/job.json`: what the output remembers of its job, written once.

It holds the resolved job, its meaning field by field, the fingerprint, the model's identity and the carried
columns. A later run under the same output must mean the same: otherwise it is refused with the fields that
differ. How a job is run (replicas, parallelism, engine options, spans, limits) may change freely.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from batchgen.errors import OutputConflict
from batchgen.job.job import Job, fingerprint
from batchgen.output.store import Put, Store
from batchgen.render.model_files import ModelFiles

NAME = "_batchgen/job.json"


@dataclass(frozen=True)
class FrozenJob:
    job: Job
    meaning: dict[str, Any]
    model: dict[str, Any]
    kept: pa.Schema

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.meaning)


def load_frozen(store: Store) -> FrozenJob | None:
    """What the output remembers, None for a new output. Raises OutputConflict when it cannot be read."""
    data = store.get(NAME)
    if data is None:
        return None
    try:
        fields = orjson.loads(data)
        kept = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(fields["carried_schema"])))
        return FrozenJob(Job.model_validate(fields["job"]), fields["meaning"], fields["model"], kept)
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise OutputConflict(f"output {store.url}: {NAME} is not a batchgen job: {error}", "choose another output.path") from None


def freeze(store: Store, job: Job, model: ModelFiles, kept: pa.Schema, upstream: Sequence[str] = ()) -> FrozenJob:
    """Write job.json, or check that the one that is there means the same. Raises OutputConflict."""
    frozen = FrozenJob(job, meaning(job, model, upstream), model.identity, kept)
    fields = {
        "job": job.model_dump(mode="json", by_alias=True),
        "fingerprint": frozen.fingerprint,
        "meaning": frozen.meaning,
        "model": model.identity,
        "carried": {field.name: str(field.type) for field in kept},
        "carried_schema": base64.b64encode(kept.serialize().to_pybytes()).decode(),
    }
    if store.put_new(NAME, orjson.dumps(fields, option=orjson.OPT_INDENT_2)) is Put.CREATED:
        return frozen
    before = load_frozen(store)
    assert before is not None
    refuse_change(store.url, before, frozen.meaning)
    return before


def meaning(job: Job, model: ModelFiles, upstream: Sequence[str] = ()) -> dict[str, Any]:
    """The job's meaning with the model's identity in it, and the fingerprints of the jobs whose outputs it reads."""
    chained = {"input.fingerprints": list(upstream)} if upstream else {}
    return job.meaning() | chained | {f"model.{name}": value for name, value in model.identity.items()}


def refuse_change(output: str, before: FrozenJob, now: dict[str, Any]) -> None:
    """Raises OutputConflict with a line per field that differs."""
    if fingerprint(now) == before.fingerprint:
        return
    names = [name for name in dict.fromkeys([*before.meaning, *now]) if before.meaning.get(name) != now.get(name)]
    lines = [f"  {name}: {before.meaning.get(name)!r} there, {now.get(name)!r} in this job" for name in names]
    raise OutputConflict(
        f"output {output} belongs to another job; these fields differ:\n" + "\n".join(lines) + "\nbring them back",
        "or choose another output.path",
    )
