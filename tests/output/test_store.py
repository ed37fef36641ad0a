"""store.py: one contract, held by a directory, memory and S3."""

import os
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batchgen.errors import BAD_JOB, RUN_ERROR, InputError, StoreError
from batchgen.output.store import SCRATCH, LocalStore, open_store, probe


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        return open_store(str(tmp_path / "out"))
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}")
    return open_store(f"{request.getfixturevalue('s3').url}/{uuid.uuid4().hex}")


def test_the_first_put_new_creates_and_the_second_changes_nothing(store):
    assert store.put_new("data/a.parquet", b"first") is True
    assert store.put_new("data/a.parquet", b"second") is False
    assert store.get("data/a.parquet") == b"first"


def test_put_new_of_the_same_bytes_is_exists_too(store):
    assert [store.put_new("a", b"same"), store.put_new("a", b"same")] == [True, False]


def test_one_of_sixteen_writers_wins_a_name_and_its_bytes_stay(store):
    barrier, answers = threading.Barrier(16), {}

    def write(number):
        barrier.wait(30)
        answers[number] = store.put_new("data/raced", bytes([number]) * 100_000)

    threads = [threading.Thread(target=write, args=[number]) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    winners = [number for number, answer in answers.items() if answer is True]
    assert len(answers) == 16
    assert len(winners) == 1
    assert store.get("data/raced") == bytes(winners) * 100_000


def test_put_replaces_the_whole(store):
    store.put("progress.json", b"a longer first version")
    store.put("progress.json", b"short")
    assert store.get("progress.json") == b"short"


def test_a_name_that_was_put_exists(store):
    store.put("a", b"put")
    assert store.put_new("a", b"new") is False
    assert store.get("a") == b"put"


def test_a_missing_name_is_none(store):
    assert store.get("nowhere") is None
    store.put("folder/a", b"")
    assert store.get("folder/b") is None


@pytest.mark.parametrize("data", [b"", b"\0\r\n\xff", os.urandom(3_000_000)], ids=["empty", "binary", "3 MB"])
def test_what_is_put_is_what_is_got(store, data):
    store.put_new("a/b/c", data)
    assert store.get("a/b/c") == data


def test_a_list_names_everything_below_a_folder_and_nothing_else(store):
    for name in ("data/a", "data/b/c", "database/x", "x/data/y"):
        store.put_new(name, b"")
    assert sorted(store.list("data")) == ["data/a", "data/b/c"]


def test_a_list_of_nothing_is_empty(store):
    assert list(store.list("data")) == []


def test_a_list_has_more_than_a_page_of_names(store):
    for number in range(1100):
        store.put(f"data/{number}", b"")
    assert sorted(store.list("data")) == sorted(f"data/{number}" for number in range(1100))


def test_delete_removes_one_name_and_twice_is_fine(store):
    store.put_new("data/a", b"1")
    store.put_new("data/b", b"2")
    store.delete("data/a")
    store.delete("data/a")
    assert (store.get("data/a"), list(store.list("data"))) == (None, ["data/b"])


def test_a_deleted_name_can_be_created_again(store):
    store.put_new("a", b"1")
    store.delete("a")
    assert store.put_new("a", b"2") is True
    assert store.get("a") == b"2"


def test_the_probe_passes_where_the_first_answer_was_lost(tmp_path):
    class Forgetful(LocalStore):
        """Says of every put that the name exists, as put_new does when the answer to a PUT was lost and it puts again."""

        def put_new(self, name, data):
            super().put_new(name, data)
            return False

    probe(Forgetful(tmp_path))
    assert list(tmp_path.rglob("probe-*")) == []


def test_the_probe_passes_and_leaves_nothing(store):
    probe(store)
    probe(store)
    assert list(store.list("")) == []


def test_no_scratch_stays_behind(store):
    store.put_new("data/a", b"1")
    store.put_new("data/a", b"2")
    store.put("data/b", b"3")
    assert sorted(store.list("")) == ["data/a", "data/b"]


class Careless:
    """A store whose put_new overwrites, and answers as it is told to."""

    url = "careless://"

    def __init__(self, *answers):
        self.answers, self.objects = list(answers), {}

    def put_new(self, name, data):
        self.objects[name] = data
        return self.answers.pop(0)

    def get(self, name):
        return self.objects.get(name)

    def delete(self, name):
        self.objects.pop(name, None)


@pytest.mark.parametrize("answers", [(True, True), (True, False), (False, False)])
def test_the_probe_refuses_a_store_that_overwrites_and_cleans_up(answers):
    store = Careless(*answers)
    with pytest.raises(StoreError, match=r"^output careless://: a second put .* was not refused; choose a store with") as caught:
        probe(store)
    assert caught.value.exit_code == RUN_ERROR
    assert store.objects == {}


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.put_new("a", b""),
        lambda store: store.put("a", b""),
        lambda store: store.get("a"),
        lambda store: store.delete("a"),
        probe,
    ],
    ids=["put_new", "put", "get", "delete", "probe"],
)
def test_a_file_in_place_of_the_directory_is_a_store_error(tmp_path, act):
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(
        StoreError, match=r"^output .*/out.*: (Not a directory|File exists); mend it and run again: nothing is lost"
    ):
        act(LocalStore(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b"a file"


def test_a_put_new_that_fails_leaves_no_scratch(tmp_path):
    store = LocalStore(tmp_path)
    store.put_new("data", b"a file where a folder should be")
    with pytest.raises(StoreError):
        store.put_new("data/a", b"1")
    assert list(store.list(SCRATCH)) == []


def test_a_put_that_fails_leaves_no_scratch(tmp_path):
    store = LocalStore(tmp_path)
    (tmp_path / "progress.json").mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        store.put("progress.json", b"1")
    assert list(store.list(SCRATCH)) == []


def test_a_file_url_is_a_directory(tmp_path):
    open_store(f"file://{tmp_path}/out").put_new("a", b"1")
    assert (tmp_path / "out" / "a").read_bytes() == b"1"


def test_opening_a_local_store_creates_nothing(tmp_path):
    open_store(str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_memory_store_is_found_again_by_its_url():
    url = f"memory://{uuid.uuid4().hex}"
    open_store(url).put_new("a", b"1")
    assert open_store(url).get("a") == b"1"
    assert open_store(url + "x").get("a") is None


@pytest.mark.parametrize("url", ["ftp://host/out", "nonsense://x", "s3://"])
def test_an_unknown_scheme_is_an_input_error_that_names_it(url):
    with pytest.raises(InputError) as caught:
        open_store(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert caught.value.exit_code == BAD_JOB


def test_listing_a_bucket_that_is_not_there_is_a_store_error(s3):
    with pytest.raises(StoreError, match=r"s3://batchgen-no-such-bucket/out.*NoSuchBucket"):
        list(open_store("s3://batchgen-no-such-bucket/out").list("data"))


@pytest.fixture
def server(s3, monkeypatch):
    """A one-object S3: `answers` holds what it does to each next PUT; then it does as S3 does."""

    class Handler(BaseHTTPRequestHandler):
        objects, answers, puts = {}, [], []

        def do_PUT(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            self.puts.append(self.headers["If-None-Match"])
            answer = self.answers.pop(0) if self.answers else None
            if answer is None and self.path in self.objects and self.headers["If-None-Match"]:
                return self.reply(412)
            if answer in (None, "lost"):
                self.objects[self.path] = data
            return self.reply(answer if isinstance(answer, int) else 200, lost=answer == "lost")

        def do_HEAD(self):
            self.reply(200 if self.path in self.objects else 404)

        def reply(self, status, lost=False):
            self.close_connection = True
            if not lost:
                head = f'HTTP/1.1 {status} X\r\nETag: "x"\r\nLast-Modified: Wed, 25 Nov 2026 00:00:00 GMT\r\n'
                head += "Content-Length: 0\r\nConnection: close\r\n\r\n"
                self.wfile.write(head.encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=[0.02])
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{http.server_port}")
        yield Handler
        http.shutdown()
        thread.join()


def test_a_lost_answer_is_answered_by_putting_again(server):
    server.answers[:] = ["lost"]
    assert open_store("s3://bucket/out").put_new("a", b"data") in (True, False)
    assert list(server.objects.values()) == [b"data"]
    assert server.puts == ["*", "*"]


@pytest.mark.parametrize("answers", [[503], [409], [500, 503], [409, "lost"]], ids=str)
def test_an_answer_that_says_nothing_of_the_object_is_answered_by_putting_again(server, answers):
    server.answers[:] = answers
    put = open_store("s3://bucket/out").put_new("a", b"data")
    assert list(server.objects.values()) == [b"data"]
    assert put or "lost" in answers
    assert set(server.puts) == {"*"}


def test_a_refused_permission_is_a_store_error_at_once(server):
    server.answers[:] = [403] * 9
    with pytest.raises(StoreError, match=r"^output s3://bucket/out/a: .*run again to resume: nothing is lost$"):
        open_store("s3://bucket/out").put_new("a", b"data")
    assert server.puts == ["*"]
