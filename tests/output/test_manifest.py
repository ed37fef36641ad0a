"""The manifest: entries after their parts, none from who lost, and what a resume makes of a crash between the two."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from batchgen.errors import NewerFormat, StoreError
from batchgen.output import lease, parts, plan_file
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import Store, open_store
from batchgen.output.success import finish
from batchgen.output.trust import manifest
from tests.support.committed import Committed
from tests.support.finished import Finished


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def end(store: Store) -> None:
    """The end of a run."""
    with lease.hold(store, print) as held:
        finish(store, held, has_manifest=True)


def digest_of(store: Store, span: str) -> str:
    return parts.sha256(store.get(parts.part_name(span)))


def test_files_are_numbered_and_say_together_what_was_recorded(store: Store) -> None:
    assert manifest.load(store) == manifest.Manifest()
    manifest.append(store, {"a": "1", "b": "2"})
    manifest.append(store, later={"c": "3"})
    found = manifest.load(store)
    assert (found.digests, found.later, found.problems) == ({"a": "1", "b": "2", "c": "3"}, {"c"}, [])
    assert sorted(store.list(manifest.FOLDER)) == [manifest.name_of(0), manifest.name_of(1)]


def test_a_driver_whose_number_was_taken_takes_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest.append(store, {"a": "1"})
    monkeypatch.setattr(store, "list", lambda _: iter(()))
    manifest.append(store, {"b": "2"})
    monkeypatch.undo()
    assert manifest.load(store).digests == {"a": "1", "b": "2"}


def test_a_foreign_file_in_the_folder_is_named_and_hides_no_entry(store: Store) -> None:
    store.put(f"{manifest.FOLDER}/notes.txt", b"x")
    manifest.append(store, {"a": "1"})
    manifest.append(store, {"b": "2"})
    found = manifest.load(store)
    assert (found.digests, len(found.problems)) == ({"a": "1", "b": "2"}, 1)
    assert "notes.txt: not a file of the manifest" in found.problems[0]


def test_what_a_repair_moved_away_is_recorded_anew(store: Store) -> None:
    manifest.append(store, {"a": "1"})
    manifest.append(store, void={"a": "damaged"})
    assert manifest.load(store).digests == {}
    manifest.append(store, {"a": "2"})
    assert manifest.load(store).digests == {"a": "2"}
    assert manifest.load(store).problems == []


def test_two_digests_of_one_part_are_a_problem_and_the_first_one_stays(store: Store) -> None:
    manifest.append(store, {"a": "1"})
    manifest.append(store, later={"a": "2"})
    assert manifest.load(store).digests == {"a": "1"}
    assert manifest.load(store).problems == [f"{manifest.name_of(1)}: another sha256 of span a than in the file before"]


def test_a_file_of_a_later_format_is_refused(store: Store) -> None:
    store.put(manifest.name_of(0), json.dumps({"format": 2, "version": "9.9"}).encode())
    with pytest.raises(NewerFormat, match=r"written by batchgen 9\.9"):
        manifest.load(store)


@pytest.fixture
def output(tmp_path: Path) -> Committed:
    return Committed(tmp_path)


def test_the_driver_records_what_its_replicas_have_made(output: Committed) -> None:
    monitor = output.monitor(quiet=True)
    for span in output.spans[:2]:
        monitor.receipt(replace(output.commit(span), sha256=digest_of(output.store, span.name)))
    assert manifest.load(output.store).digests == {}, "few files: not one for each part"
    monitor.tick(1, force=True)
    monitor.tick(1, force=True)
    found = manifest.load(output.store)
    assert found.digests == {span.name: digest_of(output.store, span.name) for span in output.spans[:2]}
    assert (found.later, len(list(output.store.list(manifest.FOLDER)))) == (set(), 1)


def test_who_lost_the_race_for_a_part_records_nothing(output: Committed) -> None:
    monitor = output.monitor(quiet=True)
    receipt = output.commit(output.spans[0])
    monitor.receipt(replace(receipt, created=False, sha256=None))
    monitor.tick(1, force=True)
    assert list(output.store.list(manifest.FOLDER)) == []


def test_a_replica_gives_the_sha256_of_the_part_that_it_made_and_of_no_other(tmp_path: Path) -> None:
    output = Finished(tmp_path)
    found = manifest.load(output.store)
    assert found.digests == {span.name: digest_of(output.store, span.name) for span in output.plan.spans}
    assert found.later == set()


def test_a_part_whose_entry_a_crash_prevented_is_recorded_later_and_says_so(output: Committed) -> None:
    for span in output.spans:
        output.commit(span)
    manifest.append(output.store, {output.spans[0].name: digest_of(output.store, output.spans[0].name)})
    end(output.store)
    verdict = Output.open(output.store).verify()
    assert (verdict.recorded, verdict.recorded_later) == (4, 3)
    assert manifest.load(output.store).digests == {span.name: digest_of(output.store, span.name) for span in output.spans}


def test_an_entry_whose_part_is_gone_is_a_lost_part_although_the_job_is_unfinished(output: Committed) -> None:
    output.commit(output.spans[0])
    manifest.append(output.store, {span.name: "0" * 64 for span in output.spans[1:2]})
    verdict = Output.open(output.store).verify()
    assert f"{parts.part_name(output.spans[1].name)}: missing (2 rows)" in verdict.problems
    assert not verdict.unfinished


def test_a_repair_that_was_killed_before_the_part_was_deleted_is_found_and_not_blessed(tmp_path: Path) -> None:
    output = Finished(tmp_path)
    span = output.plan.spans[1].name
    name = parts.part_name(span)
    output.store.put(name, (output.store.get(name) or b"") + b"x" * 0)
    output.store.delete(SUCCESS)
    manifest.append(output.store, void={span: digest_of(output.store, span)})
    end(output.store)
    assert span not in manifest.load(output.store).digests
    verdict = output.output.verify()
    assert f"{name}: damaged, and its repair has not ended: run verify --repair again" in verdict.problems
    assert verdict.damaged == [name]
    output.output.repair(verdict)
    assert output.run() == 20
    assert output.output.verify().problems == []


def test_a_job_that_was_done_is_not_sealed_again(tmp_path: Path) -> None:
    output = Finished(tmp_path)
    (tmp_path / "out" / plan_file.name_of(0)).write_bytes((output.store.get(plan_file.name_of(0)) or b"") + b" ")
    before = output.store.get(SUCCESS)
    end(output.store)
    assert output.store.get(SUCCESS) == before
    assert output.output.verify().problems != []


def test_a_driver_that_stood_still_may_add_what_it_knew_of_parts_and_nothing_else(tmp_path: Path) -> None:
    output = Finished(tmp_path)
    span = output.plan.spans[0].name
    manifest.append(output.store, {span: digest_of(output.store, span)})
    assert output.output.verify().problems == []
    manifest.append(output.store, later={span: digest_of(output.store, span)})
    assert output.output.verify().problems == [f"{manifest.name_of(2)}: added since the job was done"]


def test_a_plan_that_another_driver_made_meanwhile_leaves_a_finished_job_finished(tmp_path: Path) -> None:
    output = Finished(tmp_path)
    assert plan_file.add(output.store, 0, output.plan.shards, output.plan.spans) is False
    assert output.output.verify().problems == []


def test_a_repair_that_stood_still_deletes_no_part_that_was_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Finished(tmp_path)
    name = parts.part_name(output.plan.spans[1].name)
    sound = output.store.get(name) or b""
    output.store.put(name, sound[:-9])
    found = output.output
    verdict = found.verify()
    kept = found.store.put_new

    def stood_still(there: str, data: bytes) -> bool:
        output.store.put(name, sound)
        return kept(there, data)

    monkeypatch.setattr(found.store, "put_new", stood_still)
    with pytest.raises(StoreError, match="it was made again meanwhile; run verify again"):
        found.repair(verdict)
    monkeypatch.undo()
    assert output.output.verify().problems == []
