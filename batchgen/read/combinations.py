"""`attributes.sample.from` as a path -> the combinations in that file. They are part of what a row means, so they go into the
frozen job; workers do not have the file."""

from collections import Counter

import orjson

from batchgen.errors import InputError, JobError, safe_message
from batchgen.job.attributes import WEIGHT
from batchgen.job.job import Job
from batchgen.read.formats.parquet import open_parquet


def with_combinations(job: Job) -> Job:
    """The job with the combinations in the file's rows in place of its path: in order of appearance, each once with its number of
    rows as weight. Raises JobError."""
    sample = job.attributes.sample if job.attributes else None
    if job.attributes is None or sample is None or not isinstance(sample.from_, str):
        return job
    path, names = sample.from_, job.attributes.schema.names
    where = f"attributes.sample.from {path}"
    try:
        if path.endswith(".parquet"):
            file, _ = open_parquet(path)
            rows = file.read(columns=[name for name in file.schema_arrow.names if name in names]).to_pylist()
        else:
            with open(path, "rb") as lines:
                rows = [orjson.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, InputError) as error:
        raise JobError(f"{where}: {safe_message(error)}") from None
    counted: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, dict):
            counted[orjson.dumps({name: row[name] for name in names if row.get(name) is not None}).decode()] += 1
    counted.pop("{}", None)
    if not counted:
        raise JobError(f"{where}: no row in it has one of {', '.join(names)}")
    fields = job.model_dump(mode="json", by_alias=True)
    fields["attributes"]["sample"]["from"] = [{**orjson.loads(point), WEIGHT: times} for point, times in counted.items()]
    return Job.parse(fields, where)
