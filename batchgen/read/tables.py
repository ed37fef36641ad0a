"""Arrow types that may be read.

A process that has imported ray.data unpickles some Arrow extension types as soon as it sees a schema that names them. So
the formats refuse a file whose bytes name an extension type before pyarrow interprets them, and the types of what is opened
must be on an allow-list.
"""

from __future__ import annotations

import pyarrow as pa

from batchgen.errors import InputError

EXTENSION = b"ARROW:extension"
"""The metadata key of an extension type in a schema's bytes."""


def check_types(shard: str, schema: pa.Schema) -> None:
    """Raises InputError for a column whose type is not allowed, at any depth."""
    for field in schema:
        _check_type(shard, field.name, field.type)


def _check_type(shard: str, column: str, kind: pa.DataType) -> None:
    types = pa.types
    if types.is_dictionary(kind):
        return _check_type(shard, column, kind.value_type)
    if types.is_nested(kind) and not types.is_union(kind):
        for index in range(kind.num_fields):
            _check_type(shard, column, kind.field(index).type)
        return None
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    bytes_ = (
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind)
    )
    plain = texts or bytes_ or types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind)
    if isinstance(kind, pa.BaseExtensionType) or not plain:
        raise InputError(f"shard {shard}: column {column}: type {kind} is not allowed", "write it with a plain type")
    return None
