"""Adapters on no backbone: tensors under the names that PEFT or AdapterHub gave them, which stay in their files.

    LoRA         A [in, r] and B [r, out] of each module of the Hugging Face model, the scale in B:  ΔW = A B  [in, out]
    all others   the file's tensors in the order of their names, as one vector

θ0 is 0, and 1 for the factors of (IA)³, as with a backbone.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from deltas.attach import natural
from deltas.backbones.loading import FAMILIES
from deltas.checkpoints.peft_modules import COPY
from deltas.checkpoints.peft_rows import KEY
from deltas.checkpoints.reading import Tensor
from deltas.errors import InputError
from deltas.layout import Layout
from deltas.types import DeltaType, Foreign, LoRA

PREFIXES = tuple(sorted({family.prefix for family in FAMILIES.values()} - {""}))
"""What names of modules begin with where a model was saved with a head."""
HEADS = ("lm_head", "cls.")
"""What names of a head begin with, which have no such prefix."""

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Module → A float32 [in, r] and B float32 [r, out]: the change of its kernel [in, out] is A B."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A tensor as it lies in a file, and how it is read: turned, times a scale, less a start."""

    key: str
    raw: Tensor
    turned: bool = False
    scale: float = 1.0
    start: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is read."""
        return self.raw.shape[::-1] if self.turned else self.raw.shape

    def read(self) -> Float32[np.ndarray, "..."]:
        """θ − θ0."""
        found = np.asarray(self.raw, np.float32)
        found = found.T if self.turned else found
        if self.scale != 1:
            found = found * np.float32(self.scale)
        return found - np.float32(self.start) if self.start else found


class Pieces:
    """Tensors side by side as one vector, of which only what is asked for is read: `x[start:stop]`, or all by `np.asarray`."""

    dtype = np.dtype(np.float32)

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = list(pieces)
        self._ends = np.cumsum([int(np.prod(piece.shape)) for piece in pieces])
        self.shape = (int(self._ends[-1]),)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, columns: slice) -> Float32[np.ndarray, " c"]:
        start, stop, step = columns.indices(len(self))
        found, first = [np.zeros(0, np.float32)], int(np.searchsorted(self._ends, start, side="right"))
        for i in range(first, len(self._pieces)):
            before = int(self._ends[i - 1]) if i else 0
            if before >= stop:
                break
            found.append(self._pieces[i].read().reshape(-1)[max(start - before, 0) : stop - before])
        return np.concatenate(found)[::step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def tobytes(self) -> bytes:
        """All of them, as an array's."""
        return self[:].tobytes()


class _Low(Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """The factors of a LoRA by module, read when they are asked for."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        self._pieces = pieces

    def __getitem__(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        return self._pieces[f"{module}.a"].read(), self._pieces[f"{module}.b"].read()

    def __contains__(self, module: object) -> bool:
        return f"{module}.a" in self._pieces  # and nothing is read

    def __iter__(self) -> Iterator[str]:
        return (name.removesuffix(".a") for name in self._pieces if name.endswith(".a"))

    def __len__(self) -> int:
        return len(self._pieces) // 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Unplaced:
    """An adapter that is on no backbone.

    Args:
        folder: where it lies.
        kind: the delta type by name, which is its label too.
        library: `peft` or `adapterhub`.
        pieces: by the names of the layout.
        raw: what its configuration says about the function, names of modules aside.
        base: the model that it names as its base; None where it names none.
        files: what was read.
        provenance: as a solution's.
    """

    folder: Path
    kind: str
    library: str
    pieces: Mapping[str, Piece]
    raw: Mapping[str, Any]
    base: str | None
    files: tuple[Path, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.resolve().name

    @cached_property
    def layout(self) -> Layout:
        """Of θ."""
        return Layout(tuple(self.pieces), tuple(piece.shape for piece in self.pieces.values()))

    @cached_property
    def config(self) -> DeltaType:
        """A `LoRA` of scale 1 at the modules by name, or a `Foreign`."""
        if self.kind == "lora":
            return lora_at({module: a.shape[1] for module, a in self._ends(".a")})
        raw = dict(self.raw)
        if self.raw.get("peft_type") == "IA3":
            raw["target_modules"] = [module for module, _ in self._ends(".ia3_l")]
            raw["feedforward_modules"] = [module for module, factors in self._ends(".ia3_l") if factors.shape[0] == 1]
        elif self.raw.get("peft_type") == "LN_TUNING":
            raw["target_modules"] = sorted({name.partition(COPY)[0] for name in self.pieces})
        return Foreign(label=self.kind, kind=self.kind, library=self.library, raw=text(raw))

    def _ends(self, end: str) -> list[tuple[str, Piece]]:
        return [(name.removesuffix(end), piece) for name, piece in self.pieces.items() if name.endswith(end)]

    @property
    def theta0(self) -> Float32[np.ndarray, " D"]:
        """Where θ starts."""
        return np.concatenate([np.full(int(np.prod(piece.shape)), piece.start, np.float32) for piece in self.pieces.values()])

    @property
    def vector(self) -> Pieces:
        """θ − θ0."""
        return Pieces(list(self.pieces.values()))

    @property
    def factors(self) -> Factors:
        """Of a LoRA."""
        return _Low(self.pieces)

    @property
    def ranks(self) -> dict[str, int]:
        """Of a LoRA, by module."""
        return {module: a.shape[1] for module, a in self._ends(".a")} if self.kind == "lora" else {}

    @property
    def prefix(self) -> str:
        """What the names of its base's modules begin with."""
        return prefix_of(self.pieces)

    def renamed(self, prefix: str) -> "Unplaced":
        """The same under the names that a model saved with another prefix would have."""
        if (old := self.prefix) == prefix or KEY in self.pieces:
            return self
        return replace(self, pieces=in_order({
            prefix + name.removeprefix(old) if name.startswith(old) and not name.startswith(HEADS) else name: piece
            for name, piece in self.pieces.items()}))

    def check_finite(self) -> None:
        """Refuse NaN and infinity, by file and tensor; reads every number once."""
        for piece in self.pieces.values():
            if not np.isfinite(piece.read()).all():
                raise InputError(f"expected finite numbers in {self.files[-1]}, got NaN or infinity in the tensor {piece.key}; leave it out, "
                                 "or train it again")


def prefix_of(names: Iterable[str]) -> str:
    """Which of the prefixes any of the names begins with."""
    names = list(names)
    return next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in names)), "")


def in_order(pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    """By name, numbers in names counted."""
    return dict(sorted(pieces.items(), key=lambda item: natural(item[0])))


def lora_at(ranks: Mapping[str, int], label: str = "") -> LoRA:
    """A LoRA of these ranks at exactly these places, whose scale is 1."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    pattern = tuple((name, rank) for name, rank in ranks.items() if rank != common)
    return LoRA(label=label, rank=common, alpha=float(common), rank_pattern=pattern,
                alpha_pattern=tuple((name, float(rank)) for name, rank in pattern), sites=tuple(ranks))


def text(raw: Mapping[str, Any]) -> str:
    """A configuration in one form."""
    return json.dumps(raw, sort_keys=True)
