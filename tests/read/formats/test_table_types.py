"""The Arrow types that may be read."""

import pyarrow as pa
import pytest

from batchgen.errors import InputError
from batchgen.read.formats.table import check_types

UNION = pa.sparse_union([pa.field("a", pa.int32()), pa.field("b", pa.string())])


@pytest.mark.parametrize("kind", [UNION, pa.list_(UNION), pa.struct([("x", UNION)]), pa.uuid(), pa.list_(pa.json_())])
def test_a_union_or_extension_is_not_allowed_at_any_depth(kind):
    with pytest.raises(InputError, match=r"^shard in\.parquet: column c: type .* is not allowed; write it with a plain type$"):
        check_types("in.parquet", pa.schema([("c", kind)]))


@pytest.mark.parametrize(
    "kind",
    [
        pa.null(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(4),
        pa.decimal128(9, 2),
        pa.timestamp("us", "UTC"),
        pa.float16(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.map_(pa.string(), pa.list_(pa.struct([("x", pa.date32())]))),
    ],
    ids=str,
)
def test_plain_types_are_allowed_at_any_depth(kind):
    assert check_types("in.parquet", pa.schema([("c", pa.list_(kind))])) is None
