"""What a family of transformers adds to the shared blocks: how its configuration maps to them, and its table of weight names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deltas.backbones.architecture import Architecture
from deltas.backbones.blocks import ACTIVATIONS
from deltas.errors import InputError

Names = dict[str, str | tuple[str, ...]]
"""Hugging Face tensor name, without the base prefix → path of the parameter here; a fused tensor → those that it is cut into along its
output axis, in equal parts."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one family is read.

    config: (`config.json`, names of the tensors) → architecture. names: architecture → table of names. prefix: what the names start with
    where the file was saved with a head. transposed: whether linear kernels are stored [out, in] there. copies: further names that a file
    may carry → the tensor that they must equal. unread: globs of tensors that no part of the mathematics reads.
    """

    config: Callable[[Mapping[str, Any], frozenset[str]], Architecture]
    names: Callable[[Architecture], Mapping[str, str | tuple[str, ...]]]
    prefix: str = ""
    transposed: bool = True
    copies: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def redundant(self) -> tuple[str, ...]:
        """Globs of the tensors that a file may carry beside those of the table."""
        return (*self.copies, *self.unread)


def sizes(raw: Mapping[str, Any], **wanted: str) -> dict[str, Any]:
    """Fields of the architecture (name here → name there) that a `config.json` must have."""
    missing = [theirs for theirs in wanted.values() if raw.get(theirs) is None]
    if missing:
        raise InputError(f"expected {', '.join(missing)} in the config.json of a {raw.get('model_type')}, got none; restore the file")
    return {ours: raw[theirs] for ours, theirs in wanted.items()}


def activation(name: Any, field: str) -> str:
    """The name of an activation that is known."""
    known = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "swish": "silu"}.get(name, name)
    if known not in ACTIVATIONS:
        raise InputError(f"expected {field} among {', '.join(ACTIVATIONS)}, got {name!r} in config.json; choose another backbone")
    return known


def fixed(raw: Mapping[str, Any], **values: Any) -> None:
    """Refuse a switch that would change the mathematics and is not built: each must be absent or have the given value."""
    for name, value in values.items():
        if raw.get(name, value) not in (value, None):
            raise InputError(f"expected {name} {value!r} in config.json, got {raw[name]!r}, which is not built; choose another backbone")


def token(raw: Mapping[str, Any], name: str, otherwise: int) -> int:
    """A special token's id; of several the first."""
    value = raw.get(name)
    if isinstance(value, list):
        value = value[0] if value else None
    return otherwise if value is None else int(value)


def ends(raw: Mapping[str, Any], otherwise: int) -> dict[str, Any]:
    """What ends an answer: the end token and, where there are several, the others."""
    several = raw.get("eos_token_id")
    return {"eos_token_id": token(raw, "eos_token_id", otherwise),
            "other_ends": tuple(map(int, several[1:])) if isinstance(several, list) else ()}


def head_size(raw: Mapping[str, Any], width: int, heads: int) -> int:
    """The size of a head where the heads divide the hidden size."""
    if width % heads:
        raise InputError(f"expected a hidden size that its heads divide, got {width} and {heads} heads in the config.json of a "
                         f"{raw.get('model_type')}; restore the file")
    return width // heads
