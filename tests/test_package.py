"""The package: its public names, its version, and that `batchgen.run` is a function whatever is imported first."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator

import pytest

import batchgen
from batchgen import errors


def test_all_is_what_there_is() -> None:
    for name in batchgen.__all__:
        assert getattr(batchgen, name) is not None
    assert {"Job", "Output", "run", "BatchgenError", "NewerFormat"} <= set(batchgen.__all__)
    assert len(batchgen.__all__) == len(set(batchgen.__all__))
    with pytest.raises(AttributeError, match="no attribute 'rows'"):
        _ = batchgen.rows


def test_the_version_is_that_of_the_distribution() -> None:
    assert batchgen.__version__ == importlib.metadata.version("batchgen")


@pytest.mark.parametrize(
    "first",
    [
        "import batchgen",
        "import batchgen.run",
        "from batchgen.run import run",
        "import batchgen.cli",
        "import batchgen.check",
    ],
)
def test_run_is_a_function_whatever_is_imported_first(first: str) -> None:
    code = f"{first}\nimport batchgen.run, types\nfrom batchgen import run\n"
    code += "assert isinstance(run, types.FunctionType) and batchgen.run is run and run.__module__ == 'batchgen.run'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_is_imported_without_the_path() -> None:
    code = "import batchgen, batchgen.run, sys\nassert not {'pyarrow', 'pydantic', 'obstore', 'rich', 'ray'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def tree(error: type[errors.BatchgenError]) -> Iterator[type[errors.BatchgenError]]:
    yield error
    for one in error.__subclasses__():
        yield from tree(one)


def test_the_tree_of_errors_is_what_the_module_exports_and_draws() -> None:
    own = {error.__name__ for error in tree(errors.BatchgenError) if error.__module__ == errors.__name__}
    assert own == set(errors.__all__)
    drawn = [line.partition("── ")[2].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line]
    assert {*drawn, "BatchgenError"} == own


@pytest.mark.parametrize(
    ("error", "code"),
    [(errors.StoreError, 1), (errors.JobError, 2), (errors.NewerFormat, 2), (errors.TooManyErrors, 3), (errors.Interrupted, 75)],
)
def test_exit_codes_are_those_of_the_tree(error: type[errors.BatchgenError], code: int) -> None:
    assert error.exit_code == code
    assert str(error("what", "what to do")) == "what; what to do"
