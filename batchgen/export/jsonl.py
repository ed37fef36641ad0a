"""JSONL: a line per row with the output's columns."""

from batchgen.export.files import Line
from batchgen.output.output import Output


def export(output: Output, line: Line) -> None:
    line("rows.jsonl", None)
    for row in output.rows():
        line("rows.jsonl", row)
