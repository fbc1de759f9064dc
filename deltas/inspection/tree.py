"""The tree of a module: its parameters by place, equal blocks folded, attached deltas beside what they are attached to.

Shapes are all that is needed, so types are attached without drawing a number and without reading a weight.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from deltas.attach import attach, natural, sites
from deltas.backbones.sites import Delta, Site
from deltas.functional import no_probe
from deltas.types import DeltaType

READING = (
    "shared", "token_types", "encoder_input", "encoder_positions", "encoder_embed_norm", "encoder", "encoder_norm", "decoder_input",
    "decoder_positions", "decoder_embed_norm", "decoder", "decoder_norm", "head_dense", "head_norm", "head", "attn", "attn_norm", "cross",
    "cross_norm", "ff", "ff_norm", "q", "k", "v", "o", "gate", "up", "out", "kernel", "scale", "table", "bias", "head_bias",
)
"""The order in which a transformer is read; flax keeps names in that of the alphabet. Other names come after, numbers as numbers."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One array of parameters."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trained: bool = False
    """Whether it is a delta's."""

    @property
    def size(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes."""
        return self.size * jnp.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What one delta has at one site; without weights where another site holds those it shares."""

    label: str
    kind: str
    weights: tuple[Weight, ...]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A module with what is below it; `times` equal ones in a row stand as one."""

    name: str
    kind: str
    weights: tuple[Weight, ...] = ()
    attached: tuple[Attachment, ...] = ()
    nodes: tuple["Node", ...] = ()
    times: int = 1

    @property
    def parameters(self) -> int:
        """The numbers of one of them, its own and those below, without the deltas'."""
        return sum(w.size for w in self.weights) + sum(node.times * node.parameters for node in self.nodes)

    def each(self, times: int = 1) -> Iterator[tuple["Node", int]]:
        """This node and all below, with how many times each is there."""
        times *= self.times
        yield self, times
        for node in self.nodes:
            yield from node.each(times)

    @property
    def is_list(self) -> bool:
        """Whether it only numbers what is below."""
        return bool(self.nodes) and not self.weights and not self.attached and all(node.name[0].isdigit() for node in self.nodes)


Place = tuple[Any, ...]


def tree(module: nnx.Module) -> Node:
    """The module's tree; what several places share is at the first of them."""
    return _node("", dict(nnx.iter_modules(module)), dict(nnx.to_flat_state(nnx.state(module, nnx.Param))))


def _node(name: str, modules: Mapping[Place, Any], weights: Mapping[Place, Any]) -> Node:
    """The node at the place (), from all modules and weights by their places below it."""
    module, attached = modules.get(()), []
    if isinstance(module, Site):
        attached = [Attachment(label=label, kind=type(module.attached[label]).__name__,
                               weights=_weights(_under(_under(weights, "attached"), label))) for label in module.order]
        modules, weights = _without(modules, "attached"), _without(weights, "attached")
    below = sorted({place[0] for place in modules if place} | {place[0] for place in weights if len(place) > 1}, key=_reading)
    nodes = [(_node(str(each), _under(modules, each), _under(weights, each)), modules.get((each,))) for each in below]
    kept = [node for node, each in nodes if node.weights or node.attached or node.nodes or isinstance(each, Site)]
    own = {place: weight for place, weight in weights.items() if len(place) == 1}
    return Node(name=name, kind=type(module).__name__ if module is not None else "", weights=_weights(own), attached=tuple(attached),
                nodes=tuple(_folded(kept)))


def _under(values: Mapping[Place, Any], name: Any) -> dict[Place, Any]:
    return {place[1:]: value for place, value in values.items() if place[:1] == (name,)}


def _without(values: Mapping[Place, Any], name: Any) -> dict[Place, Any]:
    return {place: value for place, value in values.items() if place[:1] != (name,)}


def _weights(found: Mapping[Place, Any]) -> tuple[Weight, ...]:
    named = {".".join(map(str, place)): variable for place, variable in found.items()}
    return tuple(Weight(name=name, shape=tuple(named[name].shape), dtype=str(named[name].dtype), trained=isinstance(named[name], Delta))
                 for name in sorted(named, key=_reading))


def _reading(name: Any) -> tuple[Any, ...]:
    return (READING.index(name) if name in READING else len(READING), natural(str(name)))


def _folded(nodes: Sequence[Node]) -> list[Node]:
    """The nodes with those of a list that are equal but for their number, one after the other, as one."""
    folded: list[Node] = []
    for node in nodes:
        last = folded[-1] if folded else None
        if last is not None and node.name.isdigit() and last.name[0].isdigit() and replace(last, name="", times=1) == replace(node, name=""):
            folded[-1] = replace(last, name=f"{last.name.split(' ')[0]} … {node.name}", times=last.times + 1)
        else:
            folded.append(node)
    return folded


def with_types(module: nnx.Module, types: Sequence[DeltaType]) -> nnx.Module:
    """The module with the types attached, in their order and with shapes for arrays; the module itself stays as it is.

    Raises:
        InputError: a type that does not fit the module, or a label that is attached already.
    """
    graphdef, state = nnx.split(module)

    def build(state: Any) -> nnx.Module:
        grown = nnx.merge(graphdef, state)
        for config in types:
            places = sites(grown)
            chosen = {name: places[name] for name in config.choose(places)}
            attach(grown, config.label, config.build(chosen, jax.random.key(0), no_probe(chosen)))
        return grown

    return nnx.eval_shape(build, state)
