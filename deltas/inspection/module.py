"""What a backbone consists of, or any module with sites: the tree, and what its parameters and those of the deltas come to.

A backbone in a folder is described without reading its weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from rich.text import Text

from deltas.backbones.loading import read_architecture
from deltas.backbones.transformer import Transformer
from deltas.inspection.text import COLOURS, Cell, Report, by_dtype, columns, count, percent, settings, shape, size
from deltas.inspection.tree import Attachment, Node, Weight, tree
from deltas.types import DeltaType


@dataclass(frozen=True, kw_only=True)
class DeltaFacts:
    """One attached delta as a whole."""

    label: str
    settings: str
    """Its type and settings, where they are known."""
    parameters: int
    trained: int
    sites: int
    nbytes: dict[str, int]
    """By dtype."""
    ratio: float
    """Its parameters over the backbone's."""


@dataclass(frozen=True, kw_only=True)
class ModuleReport(Report):
    """A backbone or any module with sites."""

    kind: ClassVar[str] = "backbone"
    name: str
    family: str
    fingerprint: str | None
    """None where the weights were not read."""
    on_disk: int | None
    """Bytes of the files of weights."""
    tree: Node
    parameters: int
    nbytes: dict[str, int]
    """By dtype, without the deltas."""
    deltas: tuple[DeltaFacts, ...]
    trainable: int
    trainable_ratio: float
    """What is trained over all there is."""
    delta_ratio: float
    """The parameters of all deltas over the backbone's."""

    def lines(self) -> list[Text]:
        """Name, tree, totals."""
        colours = {delta.label: COLOURS[i % len(COLOURS)] for i, delta in enumerate(self.deltas)}
        about = [self.name, self.family, *([f"fingerprint {self.fingerprint}"] if self.fingerprint else []),
                 *([f"{size(self.on_disk)} on disk"] if self.on_disk is not None else [])]
        totals: list[list[Cell]] = [["backbone", count(self.parameters), by_dtype(self.nbytes), "", "", ""]]
        for delta in self.deltas:
            totals.append([Text(f"+ {delta.label}", colours[delta.label]), count(delta.parameters), by_dtype(delta.nbytes),
                           f"{percent(delta.ratio)} of the backbone", f"at {delta.sites} site{'s' if delta.sites > 1 else ''}", delta.settings])
        whole = self.parameters + sum(delta.parameters for delta in self.deltas)
        ratios = (f"trainable ratio {percent(self.trainable_ratio)} ({count(self.trainable)} of {count(whole)}), "
                  f"delta ratio {percent(self.delta_ratio)} (deltas / backbone)") if self.deltas else "no delta attached: nothing is trainable"
        return [Text(" · ".join(filter(None, about)), "bold"), Text(), *columns(_rows(self.tree, colours), right=(3,)), Text(),
                *columns(totals, right=(1,)), Text(ratios)]


def _rows(root: Node, colours: Mapping[str, str]) -> list[list[Cell]]:
    """One row a module and one an attached delta: name with guides, class, shapes, numbers of one of them."""
    rows: list[list[Cell]] = []

    def add(node: Node, guide: str, below: str) -> None:
        times = f" ({node.times} ×)" if node.times > 1 else ""
        name = f"{guide}{node.name}{times}" if node is not root else Text(node.kind, "bold")
        rows.append([name, Text(node.kind if node is not root else "", "dim"), _shapes(node.weights),
                     count(node.parameters) if node.parameters else ""])
        children = list(_unlisted(node))
        for i, part in enumerate(node.attached):
            end = "└─ " if i == len(node.attached) - 1 and not children else "├─ "
            colour = colours[part.label]
            rows.append([Text.assemble(below + end, (f"+ {part.label}", colour)), Text(part.kind, colour), Text(_shapes(part.weights), colour),
                         Text(count(sum(w.size for w in part.weights)) if part.weights else "none of its own", colour)])
        for i, child in enumerate(children):
            last = i == len(children) - 1
            add(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    add(root, "", "")
    return rows


def _unlisted(node: Node) -> Iterator[Node]:
    """What is below, the members of a list in its place under their whole names."""
    for child in node.nodes:
        if child.is_list:
            yield from (replace(each, name=f"{child.name}.{each.name}") for each in _unlisted(child))
        else:
            yield child


def _shapes(weights: Sequence[Weight]) -> str:
    return " · ".join(f"{weight.name} {shape(weight.shape)}" for weight in weights)


def describe(module: nnx.Module, *, name: str, family: str = "", fingerprint: str | None = None, on_disk: int | None = None,
             types: Sequence[DeltaType] = ()) -> ModuleReport:
    """The report of a module whose arrays may be shapes alone.

    Args:
        types: of the deltas attached to it, for their settings.
    """
    root, known = tree(module), {config.label: settings(config) for config in types}
    own: list[tuple[Weight, int]] = []
    places: dict[str, list[tuple[Attachment, int]]] = {label: [] for label in known}
    for node, times in root.each():
        own += [(weight, times) for weight in node.weights]
        for part in node.attached:
            places.setdefault(part.label, []).append((part, times))
    parameters = sum(times * weight.size for weight, times in own)
    deltas = []
    for label, parts in places.items():
        weights = [(weight, times) for part, times in parts for weight in part.weights]
        total = sum(times * weight.size for weight, times in weights)
        deltas.append(DeltaFacts(
            label=label, settings=known.get(label, ""), parameters=total, trained=sum(times * w.size for w, times in weights if w.trained),
            sites=sum(times for _, times in parts), nbytes=_nbytes(weights), ratio=total / max(parameters, 1)))
    attached, trainable = sum(delta.parameters for delta in deltas), sum(delta.trained for delta in deltas)
    return ModuleReport(
        name=name, family=family, fingerprint=fingerprint, on_disk=on_disk, tree=root, parameters=parameters, nbytes=_nbytes(own),
        deltas=tuple(deltas), trainable=trainable, trainable_ratio=trainable / max(parameters + attached, 1),
        delta_ratio=attached / max(parameters, 1))


def _nbytes(weights: Sequence[tuple[Weight, int]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for weight, times in weights:
        sizes[weight.dtype] = sizes.get(weight.dtype, 0) + times * weight.nbytes
    return sizes


def shapes_of(folder: Path, dtype: str = "float32") -> tuple[Transformer, str, int]:
    """The module of a backbone's folder with shapes for arrays, its family and kind, and the bytes of its files, whose weights are not read.

    Raises:
        InputError: what `deltas.load_backbone` refuses before it reads weights.
    """
    kind, config, files = read_architecture(folder)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    state = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, jnp.dtype(dtype)), state)
    return nnx.merge(graphdef, state), f"{kind}, {config.kind}", sum(path.stat().st_size for path in {path for _, path in files.values()})
