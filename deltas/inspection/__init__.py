"""`inspect`: what a thing is and what is in it, as a report that prints itself, is JSON, and changes nothing.

A backbone, any module with sites, a delta attached to one, a bank, a solution; and of these what lies on the disk, recognised by what is
there. Floors above add kinds of their own: objects by `inspect.register`, files by `READERS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from deltas.backbones.loading import Backbone, find_folder
from deltas.bank import Bank, Solution
from deltas.errors import InputError
from deltas.functional import Attached
from deltas.inspection.bank import describe_bank
from deltas.inspection.module import describe, shapes_of
from deltas.inspection.solution import describe_solution, describe_solution_file, is_solution
from deltas.inspection.text import Report
from deltas.inspection.tree import with_types
from deltas.types import DeltaType

Progress = Callable[[int, int], None]
"""Told (files read so far, files in all)."""


@dataclass(frozen=True)
class Reader:
    """One kind of thing on the disk: what is looked for, whether it is at a path, and its report."""

    looked_for: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, Progress | None], Report]


READERS = [
    Reader("a bank (a folder with theta0/)", lambda path: (path / "theta0").is_dir(), lambda path, tell: describe_bank(Bank(path), tell)),
    Reader("a solution's file", is_solution, lambda path, tell: describe_solution_file(path)),
]
"""The kinds beside a backbone, which may also be a hub id."""


@singledispatch
def inspect(thing: Any, *, types: Sequence[DeltaType] = (), dtype: str = "float32", on_progress: Progress | None = None) -> Report:
    """A report of `thing`: `str` of it is readable, `to_json()` holds every fact, rich prints it in colour.

    Args:
        thing: a `Backbone`, an `nnx.Module`, an `Attached`, a `Bank`, a `Solution`; or the path of a backbone's folder (a hub id, `tiny`), of a
            bank or of a solution's file. Of a backbone that is given by its path the weights are not read.
        types: attached to the backbone for the report, which shows where they go; the backbone stays as it is.
        dtype: `float32` or `bfloat16`, what a backbone that is given by its path would be loaded in.
        on_progress: told about the files of a bank.

    Raises:
        InputError: nothing that is known here, a damaged file, or types for what is no backbone.

    Example:
        print(deltas.inspect("tiny", types=[deltas.LoRA(rank=8), deltas.Prefix(length=10)]))
    """
    raise InputError(f"expected a backbone, a module, a bank, a solution or a path to inspect, got a {type(thing).__name__}; pass one of them")


@inspect.register
def _(thing: nnx.Module, *, types: Sequence[DeltaType] = (), **_: Any) -> Report:
    return describe(with_types(thing, types) if types else thing, name=type(thing).__name__, types=types)


@inspect.register
def _(thing: Backbone, *, types: Sequence[DeltaType] = (), **_: Any) -> Report:
    module = with_types(thing.module, types) if types else thing.module
    return describe(module, name=thing.name, family=f"{thing.family}, {thing.kind}", fingerprint=thing.fingerprint, types=types)


@inspect.register
def _(thing: Attached, *, types: Sequence[DeltaType] = (), **_: Any) -> Report:
    backbone = replace(thing.backbone, module=thing.module(jnp.asarray(thing.theta0), thing.frozen))
    module = with_types(backbone.module, types) if types else backbone.module
    return describe(module, name=backbone.name, family=f"{backbone.family}, {backbone.kind}", fingerprint=backbone.fingerprint,
                    types=(thing.config, *types))


@inspect.register
def _(thing: Bank, *, types: Sequence[DeltaType] = (), on_progress: Progress | None = None, **_: Any) -> Report:
    no_types(types, "a bank")
    return describe_bank(thing, on_progress)


@inspect.register
def _(thing: Solution, *, types: Sequence[DeltaType] = (), **_: Any) -> Report:
    no_types(types, "a solution")
    return describe_solution(thing)


@inspect.register
def _(thing: str | Path, *, types: Sequence[DeltaType] = (), dtype: str = "float32", on_progress: Progress | None = None) -> Report:
    path, source = Path(thing), str(thing)
    for reader in READERS if source != "tiny" else ():
        if reader.matches(path):
            no_types(types, reader.looked_for)
            return reader.read(path, on_progress)
    *others, last = "a backbone (a folder with config.json, a hub id or tiny)", *(reader.looked_for for reader in READERS)
    looked_for = f"{', '.join(others)} or {last}"
    if source != "tiny" and path.exists() and not (path / "config.json").is_file():
        inside = sorted(str(p) for p in path.glob("*") if any(reader.matches(p) for reader in READERS)) if path.is_dir() else []
        raise InputError(f"expected {looked_for}, got {source}, which is none of these; {'try ' + inside[0] if inside else 'check the path'}")
    try:
        folder = find_folder(source)
    except InputError:
        raise InputError(f"expected {looked_for}, got {source!r}, which is neither here nor on the hub; check the path or the network") from None
    module, family, on_disk = shapes_of(folder, dtype)
    return describe(with_types(module, types) if types else module, name=source, family=family, on_disk=on_disk, types=types)


def no_types(types: Sequence[DeltaType], what: str) -> None:
    """Refuse types to attach to what is no backbone."""
    if types:
        raise InputError(f"expected types for a backbone alone, got {', '.join(t.label for t in types)} for {what}; leave them out")
