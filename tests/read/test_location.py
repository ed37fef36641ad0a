"""The job's paths become shard names, and shards become streams."""

import io
import os
import uuid
from unittest.mock import Mock

import httpx
import pytest

from batchgen.errors import BAD_JOB, InputError
from batchgen.read import location
from batchgen.read.formats import known_endings


def expand(path):
    return location.expand(path, tuple(known_endings()))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An input folder `in`, in the current directory."""
    monkeypatch.chdir(tmp_path)
    names = ("b.jsonl", "a.jsonl.gz", "sub/deep/c.jsonl.zst", "sub/d.parquet", "e.ndjson", "notes.txt", "g.text", "noending")
    hidden = (".h.jsonl", "_tmp.jsonl", "_batchgen/i.jsonl", ".git/j.jsonl", "sub/_k/l.jsonl")
    for name in names + hidden:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "in" / "folder.jsonl").mkdir()
    return tmp_path


SHARDS = ["in/a.jsonl.gz", "in/b.jsonl", "in/e.ndjson", "in/sub/d.parquet", "in/sub/deep/c.jsonl.zst"]


def refusal(path):
    with pytest.raises(InputError) as caught:
        expand(path)
    assert caught.value.exit_code == BAD_JOB
    return str(caught.value)


def test_a_file_is_itself_whatever_its_ending(here):
    assert expand("in/notes.txt") == ["in/notes.txt"]


def test_a_directory_is_its_visible_shards_at_any_depth_sorted(here):
    assert expand("in") == SHARDS


def test_the_names_are_spelled_as_the_job_spells_the_path_without_dots_and_double_slashes(here):
    assert expand("./in//sub") == ["in/sub/d.parquet", "in/sub/deep/c.jsonl.zst"]
    assert expand(f"{here}/in") == [f"{here}/{name}" for name in SHARDS]


def test_two_dots_behind_a_link_lead_where_the_system_leads(here):
    (here / "far/deep").mkdir(parents=True)
    (here / "far/x.jsonl").write_text("the link's\n")
    (here / "x.jsonl").write_text("another\n")
    (here / "link").symlink_to(here / "far/deep")
    [name] = location.expand("link/../x.jsonl", (".jsonl",))
    assert (name, location.open_shard(name).read()) == ("link/../x.jsonl", b"the link's\n")
    assert location.expand("./far//deep/../x.jsonl", (".jsonl",)) == ["far/x.jsonl"]


def test_an_input_below_a_hidden_directory_is_not_hidden(here):
    assert expand("in/_batchgen") == ["in/_batchgen/i.jsonl"]


def test_a_directory_with_brackets_in_its_name_is_a_directory(here):
    (here / "in[1]").mkdir()
    (here / "in[1]" / "a.jsonl").write_text("")
    assert expand("in[1]") == ["in[1]/a.jsonl"]


def test_a_directory_without_shards_is_refused_with_the_endings_there_are(here):
    (here / "empty").mkdir()
    message = refusal("empty")
    assert message.startswith("input.path empty: no shards in it (known endings: .jsonl .ndjson ")
    assert message.endswith(f"; relative paths start at {here}")


def test_a_glob_names_files_and_no_folders(here):
    assert expand("in/[a-z]*.jsonl") == ["in/b.jsonl"]
    assert expand("in/[ab].*") == ["in/a.jsonl.gz", "in/b.jsonl"]


def test_two_stars_reach_any_depth(here):
    assert expand("in/**/*.zst") == ["in/sub/deep/c.jsonl.zst"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(here):
    (here / "a[b].jsonl").write_text("")
    assert expand("a[b].jsonl") == ["a[b].jsonl"]


def test_a_glob_that_matches_nothing_is_refused_by_its_pattern(here):
    assert refusal("in/*.csv") == f"input.path in/*.csv: nothing matches; relative paths start at {here}"


def test_a_missing_file_is_refused_by_its_name(here):
    assert refusal("x.jsonl") == f"input.path x.jsonl: no such file or directory; relative paths start at {here}"


@pytest.mark.parametrize("ask", [location.stat, location.open_shard])
def test_a_fifo_is_refused(here, ask):
    os.mkfifo("pipe.jsonl")
    with pytest.raises(InputError, match=r"^shard pipe\.jsonl: not a regular file$"):
        ask(*expand("pipe.jsonl"))


@pytest.mark.parametrize("ask", [location.stat, location.open_shard])
@pytest.mark.parametrize(("name", "cause"), [("in", "not a regular file"), ("gone.jsonl", "No such file or directory")])
def test_what_is_no_file_is_refused_with_its_cause(here, ask, name, cause):
    with pytest.raises(InputError) as caught:
        ask(name)
    assert str(caught.value) == f"shard {name}: {cause}"


def test_a_device_is_refused():
    with pytest.raises(InputError, match=r"^shard /dev/null: not a regular file$"):
        location.open_shard("/dev/null")


def test_the_size_is_in_stored_bytes(here):
    assert location.stat("in/b.jsonl")[0] == len("b.jsonl")


def test_a_later_write_changes_the_stamp_and_reading_does_not(here):
    before = location.stat("in/b.jsonl")
    location.open_shard("in/b.jsonl").close()
    assert location.stat("in/b.jsonl") == before
    (here / "in/b.jsonl").write_text("B.JSONL")
    status = os.stat("in/b.jsonl")
    os.utime("in/b.jsonl", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert location.stat("in/b.jsonl")[0] == before[0]
    assert location.stat("in/b.jsonl")[1] != before[1]


def test_a_local_shard_is_read_from_any_place(here):
    with location.open_shard("in/b.jsonl") as stream:
        assert (stream.seek(2), stream.read()) == (2, b"jsonl")


@pytest.mark.parametrize("ask", [expand, location.stat, location.open_shard])
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (FileNotFoundError("a/b"), "no such object"),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "the Hub cannot be reached, and the cache does not have it"),
        (RuntimeError("odd"), "the Hub's client failed: odd; check the name and the network"),
    ],
)
def test_what_the_hub_does_not_give_is_refused_by_its_name(monkeypatch, ask, error, cause):
    monkeypatch.setattr(location, "_hub", Mock(side_effect=error))
    with pytest.raises(InputError) as caught:
        ask("hf://datasets/a/b/in.jsonl")
    assert str(caught.value).startswith(f"hf://datasets/a/b/in.jsonl: {cause}")


@pytest.fixture
def bucket(s3):
    """A prefix with an input in it, and a function that puts an object there."""
    prefix = uuid.uuid4().hex

    def put(name, data):
        s3.client.put_object(Bucket=s3.bucket, Key=f"{prefix}/{name}", Body=data)

    for name in (
        "in/b.jsonl",
        "in/a.jsonl.gz",
        "in/sub/c.parquet",
        "in/_d/e.jsonl",
        "in/.f.jsonl",
        "in/notes.txt",
        "inside.jsonl",
    ):
        put(name, name.encode())
    return f"{s3.url}/{prefix}", put


def test_a_prefix_is_its_visible_shards_sorted(bucket):
    url, _ = bucket
    expected = [f"{url}/in/{name}" for name in ("a.jsonl.gz", "b.jsonl", "sub/c.parquet")]
    assert expand(f"{url}/in") == expected
    assert expand(f"{url}/in/") == expected


def test_an_object_is_itself(bucket):
    url, _ = bucket
    assert expand(f"{url}/in/b.jsonl") == [f"{url}/in/b.jsonl"]


def test_a_glob_over_objects_stays_in_its_folder(bucket):
    url, _ = bucket
    assert expand(f"{url}/in/b*") == [f"{url}/in/b.jsonl"]
    assert expand(f"{url}/in/?.jsonl") == [f"{url}/in/b.jsonl"]


def test_two_stars_over_objects_reach_any_depth(bucket):
    url, _ = bucket
    assert expand(f"{url}/**/*.parquet") == [f"{url}/in/sub/c.parquet"]


def test_brackets_in_a_glob_over_objects_mean_what_they_mean_locally(bucket):
    url, _ = bucket
    assert expand(f"{url}/in/[ab].jsonl*") == [f"{url}/in/a.jsonl.gz", f"{url}/in/b.jsonl"]


def test_a_glob_over_objects_that_matches_nothing_is_refused_by_its_pattern(bucket):
    url, _ = bucket
    assert refusal(f"{url}/in/*.csv").startswith(f"input.path {url}/in/*.csv: nothing matches")


def test_a_missing_object_is_refused_by_its_name(bucket):
    url, _ = bucket
    assert refusal(f"{url}/in/none.jsonl") == f"{url}/in/none.jsonl: no such object"
    with pytest.raises(InputError, match=r"/gone\.jsonl: no such object$"):
        location.open_shard(f"{url}/gone.jsonl")


def test_a_missing_bucket_is_refused_by_its_name(s3):
    assert refusal("s3://batchgen-no-such-bucket/in").startswith("s3://batchgen-no-such-bucket/in: ")


@pytest.mark.parametrize("name", ["a b.jsonl", "50%25.jsonl", "ü.jsonl", "a#b.jsonl"])
def test_an_object_with_an_odd_name_is_found_and_read(bucket, name):
    url, put = bucket
    put(f"odd/{name}", b"odd")
    assert expand(f"{url}/odd") == [f"{url}/odd/{name}"]
    assert location.open_shard(f"{url}/odd/{name}").read() == b"odd"


def test_an_object_is_read_from_any_place(bucket):
    url, put = bucket
    put("big", bytes(range(256)) * 100)
    stream = location.open_shard(f"{url}/big")
    assert (stream.seek(250), stream.read(10)) == (250, bytes([250, 251, 252, 253, 254, 255, 0, 1, 2, 3]))
    assert (stream.seek(-2, io.SEEK_END), stream.read(), stream.read(1)) == (25598, b"\xfe\xff", b"")
    assert (stream.seek(0), stream.read()) == (0, bytes(range(256)) * 100)


def test_an_object_is_read_whole_past_its_buffer(bucket, monkeypatch):
    url, put = bucket
    monkeypatch.setattr(location, "BUFFER", 1000)
    data = os.urandom(10_500)
    put("big", data)
    stream = location.open_shard(f"{url}/big")
    assert b"".join(iter(lambda: stream.read(333), b"")) == data


def test_an_object_written_again_has_another_stamp(bucket):
    url, put = bucket
    put("a", b"one")
    before = location.stat(f"{url}/a")
    put("a", b"one")
    assert location.stat(f"{url}/a") == before
    put("a", b"two")
    assert location.stat(f"{url}/a")[0] == 3
    assert location.stat(f"{url}/a")[1] != before[1]
