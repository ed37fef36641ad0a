"""Lines of a text, each held up to a cap."""

from batchgen.read import text


def test_a_line_over_the_cap_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "CHUNK", 10)
    held = [line for _, line in text.lines(open_bytes(tmp_path, b"x" * 5000 + b"\n" + b"y" * 20), "in", 20)]
    assert held == [None, b"y" * 20]


def open_bytes(folder, data):
    (folder / "text").write_bytes(data)
    return open(folder / "text", "rb")


def test_lines_give_their_length_with_the_newline(tmp_path):
    with open_bytes(tmp_path, b"ab\n\n\r\nlonger\nend") as stream:
        assert list(text.lines(stream, "in", 5)) == [(3, b"ab"), (1, b""), (2, b"\r"), (7, None), (3, b"end")]
