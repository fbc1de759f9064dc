"""Files that are either whole or absent: written under a temporary name, flushed, then renamed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltas.errors import InputError

DIGITS = 16
"""Of a SHA-256 that are kept."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it becomes `path` in one step, otherwise it is removed.

    Raises:
        InputError: the disk is full or the folder cannot be written; whatever stood at `path` before is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # a rename that survives a crash must not point at unwritten pages
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"expected to write {path}, got '{reason}'; free some space or choose another folder, then run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The JSON value in `path`; `InputError` where the file is missing or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"expected a JSON file at {path}, got nothing there; check the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"expected JSON in {path}, got {error}; restore or remove the file") from None


def sha256(*parts: bytes | str) -> str:
    """The first hex digits (`DIGITS`) of the SHA-256 of the parts, one after the other: a fingerprint."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:DIGITS]


def weight_map(index: Path) -> dict[str, str]:
    """Tensor → file, of the index of a checkpoint in several files; one that lies outside its folder is refused."""
    table = read_json(index)
    names = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(names, dict):
        raise InputError(f"expected a weight_map in {index}, got none; download it again")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise InputError(f"expected the names of files beside {index}, got {name!r}, which leads elsewhere; do not trust it")
    return names
