"""Study files: TOML tables into frozen dataclasses, where an unknown key is an error that names the nearest known one."""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from deltas.errors import InputError

T = TypeVar("T")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return parse_toml(Path(path).read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise InputError(f"expected a study file at {path}, got nothing there; check the path") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"expected TOML in {where}, got a file that cannot be read ({error}); mend it there") from None


def fill(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """The dataclass `cls` from a table, nested dataclasses from nested tables.

    Raises:
        InputError: an unknown key (the nearest known one is named), a missing one, or a value of another kind than its default.
    """
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0)[0]
            raise InputError(f"expected a key of [{where}] ({', '.join(fields)}), got {key!r}; did you mean {near!r}?")
        values[key] = _value(hints[key], value, f"{where}.{key}")
    missing = [f.name for f in fields.values() if f.name not in values
               and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise InputError(f"expected {missing[0]!r} in [{where}], got none; add it to the study file")
    return cls(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """The value as the field's type wants it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [a for a in args if a is not type(None)]
        for kind in kinds:
            try:
                return _value(kind, value, where)
            except InputError:
                if kind is kinds[-1]:
                    raise
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"expected a table at [{where}], got {value!r}; write its keys below that heading")
        return fill(typing.cast(Any, hint), value, where)
    if origin is typing.Literal:
        if value not in args:
            raise InputError(f"expected {where} to be one of {', '.join(map(repr, args))}, got {value!r}; choose one of them")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"expected a list at {where}, got {value!r}; put it in brackets")
        return tuple(_value(args[0], v, where) for v in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and hint in (int, float, str, bool) and (type(value) is not hint):
        raise InputError(f"expected {where} to be a {hint.__name__}, got {value!r}; change it in the study file")
    return dict(value) if isinstance(value, Mapping) else value
