"""`_batchgen/manifest/`: the sha256 of every part as it was committed, in numbered files, each written once.

A part comes first and its entry after it, so that an entry without a part is a part that was lost. The driver adds entries from
the receipts of the replicas that made the parts; a second writer of a part, who lost, has none. Parts without an entry (a crash
lay between, or an earlier release made them) are hashed before the job is called done, and marked as recorded later.

A file is JSON: `parts` (span to sha256, by the writer of the part), `later` (span to sha256, of the part as it was found), `void`
(span to the sha256 of a damaged part that a repair moves away), `digest` (of the rest of the file).

`_SUCCESS` is the seal: the sha256 of job file, query.json, plan files and manifest files as they were when the job was done.
Outputs of the first releases have no manifest, and an empty `_SUCCESS`."""

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import orjson

from batchgen.errors import VerifyError, safe_message
from batchgen.job.meaning import fingerprint
from batchgen.output import job_file, parts, plan_file
from batchgen.output.format import MARK, Fields, refuse_newer
from batchgen.output.parts import sha256
from batchgen.output.store import Store
from batchgen.output.trust import query_file

FOLDER = "_batchgen/manifest"
FILE_ENTRIES = 1_000  # of a file that is made of parts as they were found
Digests = Mapping[str, str]  # span to sha256, in hex


@dataclass
class Manifest:
    """What the files say together: `digests` of the parts, of which those of `later` were recorded after their commit, `void`
    ones that a repair has moved away or was about to, and `problems` with the files themselves."""

    digests: dict[str, str] = field(default_factory=dict)
    later: set[str] = field(default_factory=set)
    void: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, written: Digests, later: Digests, void: Digests) -> None:
        for span, digest in void.items():
            self.digests.pop(span, None)
            self.later.discard(span)
            self.void[span] = digest
        for span, digest in itertools.chain(written.items(), later.items()):
            if self.digests.setdefault(span, digest) != digest:
                self.problems.append(f"{name}: another sha256 of span {span} than in the file before")
            elif span in later:
                self.later.add(span)


def name_of(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def load(store: Store) -> Manifest:
    """The manifest of an output. Raises NewerFormat, StoreError."""
    found = Manifest()
    for number, name in enumerate(names := sorted(store.list(FOLDER))):
        if name != name_of(number):
            found.problems.append(f"{name}: not a file of the manifest, or one before it is missing")
        if name <= name_of(len(names)):
            try:
                found.add(name, *_read(store, name))
            except VerifyError as error:
                found.problems.append(str(error))
    return found


def append(store: Store, written: Digests = {}, later: Digests = {}, void: Digests = {}) -> None:  # noqa: B006 - read only
    """Add a file. Raises StoreError."""
    fields: Fields = {**MARK, "parts": written, "later": later, "void": void}
    data = orjson.dumps(fields | {"digest": fingerprint(fields)})
    number = sum(name.endswith(".json") for name in store.list(FOLDER))
    while not store.put_new(name_of(number), data):
        number += 1


def fill(store: Store, committed: set[str]) -> int:
    """Record the parts that have no entry, as they are now; returns how many. Raises StoreError, NewerFormat."""
    manifest, count = load(store), 0

    def digest(span: str) -> str:
        return sha256(store.get(parts.part_name(span)))

    left = iter(sorted(committed - manifest.digests.keys()))
    with ThreadPoolExecutor(8) as pool:
        while some := list(itertools.islice(left, FILE_ENTRIES)):
            found = dict(zip(some, pool.map(digest, some), strict=True))
            found = {span: digest for span, digest in found.items() if digest != manifest.void.get(span)}
            append(store, later=found)
            count += len(found)
    return count


def seal(store: Store) -> bytes:
    """The content of `_SUCCESS`. Raises StoreError."""
    return orjson.dumps(
        {**MARK, "files": {name: sha256(store.get(name)) for name in sorted(_sealed(store))}}, option=orjson.OPT_INDENT_2
    )


def broken(store: Store, seal: bytes) -> Iterator[str]:
    """What has changed since a seal was made. A driver that stood still may have added what it knew of parts, no more."""
    try:
        fields = orjson.loads(seal)
        refuse_newer(fields, plan_file.SUCCESS)
        then = {str(name): str(digest) for name, digest in fields["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{plan_file.SUCCESS}: damaged: {safe_message(error)}"
        return
    now = _sealed(store)
    for name in sorted(now | then.keys()):
        if name not in now:
            yield f"{name}: missing although it was there when the job was done"
        elif name in then and then[name] != sha256(store.get(name)):
            yield f"{name}: changed since the job was done"
        elif name not in then and not (name.startswith(f"{FOLDER}/") and _adds_nothing(store, name)):
            yield f"{name}: added since the job was done"


def _sealed(store: Store) -> set[str]:
    asked = {query_file.NAME} & {*store.list(query_file.FOLDER)}  # which names the sha256 of its rows
    return {job_file.NAME, *asked, *store.list(plan_file.FOLDER), *store.list(FOLDER)}


def _adds_nothing(store: Store, name: str) -> bool:
    try:
        _, later, void = _read(store, name)
    except VerifyError:
        return True  # load names it
    return not later and not void


def _read(store: Store, name: str) -> tuple[Digests, Digests, Digests]:
    try:
        fields = orjson.loads(store.get(name) or b"")
        refuse_newer(fields, f"{store.url}/{name}")
        if fields.pop("digest") != fingerprint(fields):
            raise ValueError("it is not as it was written")
        return dict(fields["parts"]), dict(fields["later"]), dict(fields["void"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerifyError(f"{name}: damaged: {safe_message(error)}") from None
