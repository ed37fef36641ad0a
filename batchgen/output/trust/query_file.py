"""`_batchgen/input/`: the rows of `input.query`, as they were when it was answered.

The files of rows come first, under names by their content, and query.json after them, written once: it names those that count.
It has `query`, `sources` (the shards that were read, by table), `upstream` (fingerprints of the jobs whose outputs they are),
`files` (name, rows, sha256), `notes` (sentences on rows that could not be read) and `digest` (of the rest)."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import orjson
from pydantic import TypeAdapter

from batchgen.errors import OutputConflict, safe_message
from batchgen.job.meaning import fingerprint
from batchgen.output.format import MARK, Fields, known, refuse_newer
from batchgen.output.parts import sha256
from batchgen.output.store import Store
from batchgen.records import Shard

FOLDER = "_batchgen/input"
NAME = f"{FOLDER}/query.json"
_SOURCES = TypeAdapter(dict[str, list[Shard]])


@dataclass(frozen=True)
class Piece:
    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Answer:
    """See the module's docstring."""

    query: str
    sources: dict[str, list[Shard]]
    upstream: tuple[str, ...]
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()


def name_of(number: int, digest: str) -> str:
    return f"query-{number:06d}-{digest[:12]}.parquet"


def load(store: Store) -> Answer | None:
    """None where no query was answered. Raises OutputConflict for a file that is not as it was written, NewerFormat."""
    if (data := store.get(NAME)) is None:
        return None
    try:
        fields: Fields = orjson.loads(data)
        refuse_newer(fields, f"{store.url}/{NAME}")
        if fields["digest"] != fingerprint({name: value for name, value in fields.items() if name != "digest"}):
            raise ValueError("it is not as it was written")
        pieces = tuple(known(Piece, one) for one in fields["files"])
        sources = _SOURCES.validate_python(fields["sources"])
        return Answer(fields["query"], sources, tuple(fields["upstream"]), pieces, tuple(fields["notes"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputConflict(f"output {store.url}: {NAME} is damaged: {safe_message(error)}", "restore it") from None


def freeze(store: Store, answer: Answer) -> Answer:
    """Write query.json, whose files are there; the first writer's answer counts, and is returned."""
    fields: Fields = {
        **MARK,
        "query": answer.query,
        "sources": {table: [asdict(shard) for shard in shards] for table, shards in answer.sources.items()},
        "upstream": list(answer.upstream),
        "files": [asdict(piece) for piece in answer.pieces],
        "notes": list(answer.notes),
    }
    store.put_new(NAME, orjson.dumps(fields | {"digest": fingerprint(fields)}, option=orjson.OPT_INDENT_2))
    return load(store) or answer


def problems(store: Store, wanted: bool) -> Iterator[str]:
    """What is wrong with the rows of the query of a job that has one (`wanted`)."""
    try:
        answer = load(store)
    except OutputConflict as error:
        yield str(error)
        return
    if answer is None and wanted:
        yield f"{NAME}: missing although rows of it are planned"
    for piece in answer.pieces if answer else ():
        name = f"{FOLDER}/{piece.name}"
        if (data := store.get(name)) is None:
            yield f"{name}: missing ({piece.rows} rows of the query)"
        elif sha256(data) != piece.sha256:
            yield f"{name}: it is not what was written: its sha256 differs"
