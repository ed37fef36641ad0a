"""Columns of numbers that a model reads from a text: `embedding`, `probabilities`, `scores`. A value is a float32 array of
Arrow's, without nulls: one of 1,024 numbers takes 4 kB, as Python's numbers 32 kB."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

NAMES = ("embedding", "probabilities", "scores")
TYPE = pa.list_(pa.float32())
PIECE_NUMBERS = 2**28  # of one array; the offsets of a list have 32 bits


def column(values: Sequence[pa.FloatArray | None], kind: pa.DataType = TYPE) -> pa.ChunkedArray:
    """The column of these values, of type TYPE or a list of fixed size. Raises ValueError for a value of another size."""
    if pa.types.is_fixed_size_list(kind) and any(value is not None and len(value) != kind.list_size for value in values):
        raise ValueError(f"an embedding has not {kind.list_size} numbers")
    pieces, piece, held = [], list[pa.FloatArray | None](), 0
    for value in values:
        piece.append(value)
        held += 0 if value is None else len(value)
        if held >= PIECE_NUMBERS:
            pieces.append(_array(piece, kind))
            piece, held = [], 0
    return pa.chunked_array([*pieces, _array(piece, kind)], kind)


def _array(values: list[pa.FloatArray | None], kind: pa.DataType) -> pa.Array:
    nulls = pa.array([value is None for value in values], pa.bool_())
    if pa.types.is_fixed_size_list(kind):
        zeros = pa.array(np.zeros(kind.list_size, np.float32))
        numbers = [zeros if value is None else value for value in values]
        made = pa.concat_arrays(numbers) if numbers else pa.array([], pa.float32())
        return pa.FixedSizeListArray.from_arrays(made, type=kind, mask=nulls)
    numbers = [value for value in values if value is not None]
    made = pa.concat_arrays(numbers) if numbers else pa.array([], pa.float32())
    ends = np.cumsum([0, *(0 if value is None else len(value) for value in values)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), made, type=kind, mask=nulls)
