"""Lines of a text, each held up to a cap."""

from batchgen.read.formats.text import stream


def lines(data, cap, chunk=10):
    pieces = (data[at : at + chunk] for at in range(0, len(data), chunk))
    return list(stream.lines(((piece, piece) for piece in pieces), cap))


def test_a_line_over_the_cap_is_not_held():
    assert lines(b"x" * 5000 + b"\n" + b"y" * 20, 20) == [None, b"y" * 20]


def test_lines_come_without_their_newline():
    assert lines(b"ab\n\n\r\nlonger\nend", 5) == [b"ab", b"", b"\r", None, b"end"]


def test_a_text_is_cut_where_its_copy_is():
    assert list(stream.lines(iter([(b"a\nb,c", b"a b\nc"), (b",\nd", b"\n d")]), 9)) == [b"a\nb", b"c", b"\nd"]


def test_a_text_is_read_up_to_a_limit(tmp_path):
    (tmp_path / "text").write_bytes(b"ab\n\n\r\nlonger\nend")
    with open(tmp_path / "text", "rb") as file:
        assert b"".join(stream.chunks(file, "in", limit=4)) == b"ab\n\n"
