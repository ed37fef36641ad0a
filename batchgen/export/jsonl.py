"""JSONL: a line per row with the output's columns, as values.py writes them."""

from batchgen.export.files import Line
from batchgen.output.output import Output
from batchgen.read import values


def export(output: Output, line: Line) -> None:
    line("rows.jsonl", None)
    for table in output.tables():
        for row in values.rows(table):
            line("rows.jsonl", row)
