"""`_batchgen/job.json`: what the output remembers of its job, written once.

A later run under the same output must mean the same: otherwise it is refused with the fields that differ. How a job is run
(replicas, parallelism, engine options, spans, limits) may change freely. Unlike in a user's job file, unknown fields are
ignored and missing ones have their defaults: an output of any earlier release can be read (format.py)."""

import base64
import copy
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import pyarrow as pa

from batchgen.errors import OutputConflict, safe_message
from batchgen.job.job import Job, defaults
from batchgen.job.meaning import differences, fingerprint
from batchgen.job.sampling import Sampling
from batchgen.output.format import MARK, Fields, refuse_extensions, refuse_newer
from batchgen.output.store import Store
from batchgen.records.columns import schema_of
from batchgen.render.model_files import ModelFiles

NAME = "_batchgen/job.json"
NONE: Fields = {}


@dataclass(frozen=True)
class JobFile:
    """`input_columns` are the carried columns under their output names, `schema` the columns of a part. `fingerprint` stands
    for the meaning in the jobs that read this output. `doubt` says why the file cannot be what was written, None where it can.
    `manifest`: the output has one (manifest.py)."""

    job: Job
    meaning: Fields
    model: Fields
    input_columns: pa.Schema
    schema: pa.Schema
    fingerprint: str
    doubt: str | None = None
    manifest: bool = False

    @property
    def factor(self) -> int:
        """Output rows of an input row that does not bring its own `n`."""
        return self.job.variants * self.job.samples


def load(store: Store) -> JobFile | None:
    """The job file of an output, None for a new output. Raises OutputConflict when it cannot be read or is of a later release."""
    if (data := store.get(NAME)) is None:
        return None
    try:
        fields = orjson.loads(data)
        refuse_newer(fields, f"{store.url}/{NAME}")
        names = [name for name in ("carried_schema", "schema") if name in fields]
        written = {name: base64.b64decode(fields[name]) for name in names}
        refuse_extensions(*written.values())
        schemas = {name: pa.ipc.read_schema(pa.py_buffer(data)) for name, data in written.items()}
        columns, meant, model = schemas["carried_schema"], fields["meaning"], fields["model"]
        if not isinstance(meant, dict) or not isinstance(model, dict):
            raise ValueError("its meaning or its model is no object")
        job = Job.model_validate(_known(copy.deepcopy(fields["job"])), extra="ignore")
        first = schema_of(job, columns, first_format=True)
        schema = schemas.get("schema", first)
        named, doubt = str(fields["fingerprint"]), _doubt(fields, job)
        return JobFile(job, meant, model, columns, schema, named, doubt, fields.get("manifest") is True)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, pa.ArrowException) as error:
        what = f"output {store.url}: {NAME} is not a batchgen job: {safe_message(error)}"
        raise OutputConflict(what, "choose another output.path") from None


def freeze(
    store: Store,
    job: Job,
    model: ModelFiles,
    columns: pa.Schema,
    upstream: Sequence[str] = (),
    versions: Fields = NONE,
) -> JobFile:
    """Write job.json, or check that the present one means the same. Raises OutputConflict."""
    means = meaning(job, model, upstream, versions)
    schema = schema_of(job, columns, dimensions=model.pooling.dimensions)
    frozen = JobFile(job, means, model.version, columns, schema, fingerprint(means, defaults()), manifest=True)
    fields: Fields = {
        **MARK,
        "job": job.model_dump(mode="json", by_alias=True),
        "fingerprint": frozen.fingerprint,
        "meaning": means,
        "model": model.version,
        "carried": {field.name: str(field.type) for field in columns},
        "carried_schema": base64.b64encode(columns.serialize()).decode(),
        "schema": base64.b64encode(schema.serialize()).decode(),
        "manifest": True,
    }
    fields["digest"] = fingerprint(fields)
    while (before := load(store)) is None:
        if store.put_new(NAME, orjson.dumps(fields, option=orjson.OPT_INDENT_2)):
            return frozen
    refuse_change(store.url, before, means)
    return before


def meaning(job: Job, model: ModelFiles, upstream: Sequence[str] = (), versions: Fields = NONE) -> Fields:
    """The job's meaning with the version of its model and other `versions` in it, and the fingerprints of the jobs whose outputs
    it reads."""
    chained = {"input.fingerprints": list(upstream)} if upstream else {}
    return {**job.meaning(), **chained, **versions, **{f"model.{name}": value for name, value in model.version.items()}}


def refuse_change(output: str, before: JobFile, now: Fields) -> None:
    """Raises OutputConflict with a line per field that differs."""
    if found := differences(before.meaning, now, defaults()):
        lines = "\n".join(f"  {name}: {was!r} there, {is_!r} in this job" for name, (was, is_) in found.items())
        what = f"output {output} belongs to another job; these fields differ:\n{lines}\n"
        if before.meaning.get("engine.kind") == "echo" and "engine.kind" in found:
            raise OutputConflict(f"{what}it holds a rehearsal", "delete it, or choose another output.path")
        raise OutputConflict(f"{what}bring them back", "or choose another output.path")


def _known(fields: Fields) -> Fields:
    """The fields of a stored job, from which sampling parameters that this release does not have are removed."""
    for holder in (fields, *fields.get("errors", {}).values()):
        if isinstance(holder, dict) and "sampling" in holder:
            holder["sampling"] = {k: v for k, v in holder["sampling"].items() if k in Sampling.model_fields}
    return fields


def _doubt(fields: Fields, job: Job) -> str | None:
    """Why a job file is not as it was written. The first ones have no digest, and their fingerprint is of the whole meaning."""
    if "digest" in fields:
        written = fingerprint({name: value for name, value in fields.items() if name != "digest"})
        return None if fields["digest"] == written else f"{NAME} is not as it was written"
    if fields["fingerprint"] != fingerprint(fields["meaning"]):
        return f"the fingerprint in {NAME} is of another meaning"
    of_run = {"input.fingerprints", *(f"model.{name}" for name in fields["model"])}
    meant = {name: value for name, value in fields["meaning"].items() if name not in of_run}
    found = differences(meant, job.meaning(), defaults())
    return f"the job and the meaning in {NAME} differ in {', '.join(found)}" if found else None
