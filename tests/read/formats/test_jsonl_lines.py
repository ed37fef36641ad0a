"""Lines of a text, each held up to a cap."""

from batchgen.read.formats import jsonl_text as text


def test_a_line_over_the_cap_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "CHUNK", 10)
    held = list(text.lines(open_bytes(tmp_path, b"x" * 5000 + b"\n" + b"y" * 20), "in", 20))
    assert held == [None, b"y" * 20]


def open_bytes(folder, data):
    (folder / "text").write_bytes(data)
    return open(folder / "text", "rb")


def test_lines_come_without_their_newline_and_up_to_a_limit(tmp_path):
    content = b"ab\n\n\r\nlonger\nend"
    with open_bytes(tmp_path, content) as stream:
        assert list(text.lines(stream, "in", 5)) == [b"ab", b"", b"\r", None, b"end"]
    with open_bytes(tmp_path, content) as stream:
        assert list(text.lines(stream, "in", 5, limit=4)) == [b"ab", b""]
