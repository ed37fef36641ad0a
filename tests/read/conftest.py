"""Fixtures that the tests of several formats use."""

import pyarrow as pa
import pytest


@pytest.fixture
def extension():
    """A registered Arrow extension type; `opened` counts how often its bytes were interpreted."""

    class Hostile(pa.ExtensionType):
        opened = 0

        def __init__(self):
            super().__init__(pa.string(), "batchgen.tests.hostile")

        def __arrow_ext_serialize__(self):
            return b"payload"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            Hostile.opened += 1
            return Hostile()

    pa.register_extension_type(Hostile())
    yield Hostile
    pa.unregister_extension_type("batchgen.tests.hostile")
