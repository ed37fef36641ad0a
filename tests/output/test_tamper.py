"""verify finds every change that is made to a finished output by hand."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import StoreError
from batchgen.job.meaning import fingerprint
from batchgen.output import job_file, parts, plan_file
from batchgen.output.format import KEY
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import LocalStore
from batchgen.output.trust import manifest
from tests.support.finished import Finished
from tests.support.swept import edited

JOB, PLAN, RECORDED = job_file.NAME, plan_file.name_of(0), manifest.name_of(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output: a run, and a retry of what failed in it."""
    folder = tmp_path_factory.mktemp("made")
    output = Finished(folder)
    output.mend()
    assert (output.retry(), output.run()) == (12, 12)
    return folder / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def problems(out: Path) -> list[str]:
    return Output.open(str(out)).verify().problems


def part(out: Path, number: int = 0) -> Path:
    return out / parts.part_name(Output.open(str(out)).plan.spans[number].name)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """A part as a program that knows the format would write it, with page checksums and a footer that counts right."""
    sink = io.BytesIO()
    settings = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True, **options}
    pq.write_table(change(pq.read_table(path)), sink, **settings)
    path.write_bytes(sink.getvalue())


def changed(column: str, edit: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    return lambda out: rewrite(part(out), edited(column, edit))


def footer(out: Path) -> None:
    def more(table: pa.Table) -> pa.Table:
        fields = json.loads(table.schema.metadata[KEY])
        fields["counts"]["completion_tokens"] += 1
        return table.replace_schema_metadata({KEY: json.dumps(fields)})

    rewrite(part(out), more)


def swap(out: Path) -> None:
    one, other = part(out, 0), part(out, 1)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def link(out: Path) -> None:
    part(out).rename(out / "elsewhere")
    part_name = Output.open(str(out)).plan.spans[0].name
    (out / parts.part_name(part_name)).symlink_to(out / "elsewhere")


def json_change(out: Path, name: str, change: Callable[[dict[str, Any]], object], resign: bool = True) -> None:
    """Change a file, and the digest in it."""
    fields = json.loads((out / name).read_bytes())
    change(fields)
    if resign and fields.pop("digest", None):
        fields["digest"] = fingerprint(fields)
    (out / name).write_text(json.dumps(fields))


def blessed(out: Path) -> None:
    """A part that is changed with its entry in the manifest, which is signed again."""
    changed("response", lambda texts: ["other", *texts[1:]])(out)
    digest = parts.sha256(part(out).read_bytes())
    json_change(out, RECORDED, lambda fields: fields["parts"].update({part(out).stem: digest}))


def voided(out: Path) -> None:
    """A part that is changed, with a manifest file that says that it was made again."""
    before = parts.sha256(part(out).read_bytes())
    changed("response", lambda texts: ["other", *texts[1:]])(out)
    store = LocalStore(out)
    manifest.append(store, void={part(out).stem: before})
    manifest.append(store, later={part(out).stem: parts.sha256(part(out).read_bytes())})


def replan(out: Path) -> None:
    """The plan as it was, in other bytes."""
    plan = Output.open(str(out)).plan
    spans = [span for span in plan.spans if not span.retry]
    (out / PLAN).write_bytes(plan_file.encode_plan(plan.shards, spans, next(iter(plan.jobs))) + b"")
    table = pq.read_table(out / PLAN)
    pq.write_table(table, out / PLAN, compression="gzip", write_page_checksum=True)


def forget(out: Path) -> None:
    """As if an earlier release had made it."""
    shutil.rmtree(out / manifest.FOLDER)
    (out / SUCCESS).write_bytes(b"")


def put(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes(data) and None


WAYS: dict[str, Callable[[Path], None]] = {
    "a response": changed("response", lambda texts: ["other", *texts[1:]]),
    "an id": changed("id", lambda ids: ["x", *ids[1:]]),
    "a sampling": changed("sampling", lambda given: [one and one | {"temperature": 0.5} for one in given]),
    "a model": changed("model", lambda models: ["better"] * len(models)),
    "a prompt's hash": changed("prompt_hash", lambda hashes: [None] * len(hashes)),
    "an input column": changed("prompt", lambda texts: ["asked", *texts[1:]]),
    "tokens in the footer": footer,
    "the compression": lambda out: rewrite(part(out), lambda table: table, compression="gzip"),
    "row groups": lambda out: rewrite(part(out), lambda table: table, row_group_size=3),
    "the order of rows": lambda out: rewrite(part(out), lambda table: table.take([1, 0, *range(2, len(table))])),
    "a row less": lambda out: rewrite(part(out), lambda table: table.slice(1)),
    "two parts swapped": swap,
    "a part for another": lambda out: put(str(part(out).relative_to(out)), part(out, 1).read_bytes())(out),
    "bytes after a part": lambda out: put(str(part(out).relative_to(out)), part(out).read_bytes() + b"\0")(out),
    "a part cut": lambda out: put(str(part(out).relative_to(out)), part(out).read_bytes()[:-1])(out),
    "a part gone": lambda out: part(out).unlink(),
    "a retry's part gone": lambda out: part(out, -1).unlink(),
    "a retry's response": lambda out: rewrite(part(out, -1), edited("response", lambda texts: ["other", *texts[1:]])),
    "white space in the job file": lambda out: put(JOB, (out / JOB).read_bytes() + b"\n")(out),
    "a name in the job file": lambda out: json_change(out, JOB, lambda fields: fields["job"].update(name="other")),
    "a field in the job file, unsigned": lambda out: json_change(out, JOB, lambda f: f["job"].update(name="x"), resign=False),
    "the plan in other bytes": replan,
    "a plan file more": lambda out: put(plan_file.name_of(2), plan_file.encode_plan([], []))(out),
    "the last plan file gone": lambda out: (out / plan_file.name_of(1)).unlink(),
    "an entry of the manifest gone": lambda out: json_change(out, RECORDED, lambda fields: fields["parts"].popitem()),
    "an entry of the manifest": lambda out: json_change(
        out, RECORDED, lambda f: f["parts"].update(dict.fromkeys(f["parts"], "0"))
    ),
    "a manifest file gone": lambda out: (out / manifest.name_of(1)).unlink(),
    "the first manifest file gone": lambda out: (out / RECORDED).unlink(),
    "the manifest gone": lambda out: shutil.rmtree(out / manifest.FOLDER),
    "the manifest and the seal gone": forget,
    "a part and its entry": blessed,
    "a part, and that it was made again": voided,
    "_SUCCESS gone": lambda out: (out / SUCCESS).unlink(),
    "_SUCCESS empty": put(SUCCESS, b""),
    "_SUCCESS of binary": put(SUCCESS, b"\xff\0"),
    "_SUCCESS of another shape": put(SUCCESS, b"[1]"),
    "_SUCCESS without a file": lambda out: json_change(out, SUCCESS, lambda fields: fields["files"].pop(JOB)),
    "a foreign file": put("data/notes.txt", b"x"),
    "a foreign part": put("data/000009-000000000000-000000000001.parquet", b"PAR1"),
    "a link among the parts": lambda out: (out / "data/x.parquet").symlink_to("/etc/passwd"),
    "a folder that is a link": lambda out: (out / "data/more").symlink_to("/etc"),
    "a foreign file beside the plan": put("_batchgen/plan/notes.txt", b"x"),
    "a foreign file in the manifest": put("_batchgen/manifest/notes.txt", b"x"),
}


def test_the_output_is_proven_before_it_is_changed(out: Path) -> None:
    verdict = Output.open(str(out)).verify()
    assert (verdict.problems, verdict.doubt, verdict.unfinished) == ([], None, False)
    assert (verdict.parts, verdict.recorded, verdict.recorded_later) == (7, 7, 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_change_by_hand_is_found(out: Path, way: str) -> None:
    WAYS[way](out)
    assert problems(out) != []


def test_a_part_that_is_a_link_is_named_and_not_followed(out: Path) -> None:
    link(out)
    with pytest.raises(StoreError, match=r"parquet is a symbolic link, which is not followed"):
        problems(out)


def test_every_bit_of_a_part_counts(out: Path) -> None:
    path = part(out)
    data = path.read_bytes()
    for place in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert problems(out) != [], f"byte {place}"


def test_a_changed_part_is_moved_away_and_made_again(made: Path, tmp_path: Path) -> None:
    output = Finished(tmp_path)
    name = parts.part_name(output.plan.spans[1].name)
    rewrite(tmp_path / "out" / name, edited("response", lambda texts: ["other", *texts[1:]]))
    verdict = output.output.verify()
    assert verdict.problems == [f"{name}: it is not what was committed: its sha256 differs"]
    output.output.repair(verdict)
    assert output.run() == 20
    assert output.output.verify().problems == []


@pytest.mark.parametrize(
    "way", ["a part and its entry", "an entry of the manifest", "a manifest file gone", "_SUCCESS of binary"]
)
def test_a_repair_moves_nothing_where_the_manifest_may_be_what_is_wrong(out: Path, way: str) -> None:
    WAYS[way](out)
    verdict = Output.open(str(out)).verify()
    assert verdict.doubt is not None
    assert verdict.damaged == []
