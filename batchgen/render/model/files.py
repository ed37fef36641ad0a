"""The text and JSON files of a model, which others wrote: whatever is wrong with one is a ModelError that names it."""

import json
import reprlib
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError, safe_message

JSON_CAP = 2**26  # bytes; the largest tokenizer_config.json on the Hub have a few MiB
AGAIN = "download or save the model again"


def read_text(path: Path, cap: int | None = None) -> str:
    """The text of a file of at most `cap` bytes, without a byte order mark. Raises FileNotFoundError and ModelError."""
    try:
        if not path.is_file() and path.exists():
            raise ModelError(f"{path}: not a file", AGAIN)
        size = path.stat().st_size
        if cap is not None and size > cap:
            raise ModelError(f"{path}: {size} bytes, over {cap}", "check that it is the file of a model")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: invalid UTF-8 at byte {error.start + 1}", AGAIN) from None
    except OSError as error:
        raise ModelError(f"{path}: {safe_message(error)}", "check the permissions") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no file. Python's own parser, as Transformers': some models' files have
    Infinity, which others refuse. Raises ModelError."""
    try:
        value = json.loads(read_text(path, JSON_CAP))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON: {safe_message(error)}", AGAIN) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {type(value).__name__}, not a JSON object", AGAIN)
    return value


def wrong(path: Path, name: str, value: object, wanted: str) -> ModelError:
    return ModelError(f"{path}: {name} is {reprlib.repr(value)}, not {wanted}", "correct the file")
