"""Adapters read without their backbone: tensors under the names that PEFT or AdapterHub gave them, which stay in their files.

    LoRA         A [in, r] and B [r, out] of each module of the Hugging Face model, the scale in B:  ΔW = A B  [in, out]
    all others   the file's tensors in the order of their names, as one vector

θ0 is 0, and 1 for the factors of (IA)³, as with a backbone. What would change the mathematics is refused by its name, as there; shapes that
only the backbone could tell are not compared with anything.
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
from deltas.checkpoints import adapterhub, adapterhub_config, peft, peft_config, peft_lora
from deltas.checkpoints.adapterhub_types import lora_sizes
from deltas.checkpoints.peft_modules import COPY, feedforward
from deltas.checkpoints.peft_rows import KEY
from deltas.checkpoints.reading import Tensor, Tensors, find_tensors, read_config
from deltas.errors import InputError
from deltas.layout import Layout
from deltas.types import DeltaType, Foreign, LoRA

PREFIXES = tuple(sorted({family.prefix for family in FAMILIES.values()} - {""}))
"""What names of modules begin with where a model was saved with a head."""
HEADS = ("lm_head", "cls.")
"""What names of a head begin with, which have no such prefix."""
KINDS = {"LORA": "lora", "IA3": "ia3", "LN_TUNING": "full", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}
NAME = "adapter"
"""The name that every AdapterHub adapter goes by here, so that two of them have the same keys."""
POOL = ".prefix_tuning.pool."
"""Where a pickle names the one prefix again, in every layer."""

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
        return replace(self, pieces=_sorted({prefix + name.removeprefix(old) if name.startswith(old) and not name.startswith(HEADS) else name: p
                                             for name, p in self.pieces.items()}))

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


def _sorted(pieces: Mapping[str, Piece]) -> dict[str, Piece]:
    return dict(sorted(pieces.items(), key=lambda item: natural(item[0])))


def lora_at(ranks: Mapping[str, int], label: str = "") -> LoRA:
    """A LoRA of these ranks at exactly these places, whose scale is 1."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    pattern = tuple((name, rank) for name, rank in ranks.items() if rank != common)
    return LoRA(label=label, rank=common, alpha=float(common), rank_pattern=pattern,
                alpha_pattern=tuple((name, float(rank)) for name, rank in pattern), sites=tuple(ranks))


def read_unplaced(folder: str | Path, *, allow_pickle: bool = False, without_head: bool = False) -> Unplaced:
    """The adapter in a folder of PEFT's or AdapterHub's, without its backbone.

    Args:
        folder: with `adapter_config.json` and safetensors.
        allow_pickle: read a pickle where there are no safetensors, weights alone, with PyTorch.
        without_head: leave out the prediction head that was saved with the adapter.

    Raises:
        InputError: what `load_checkpoint` refuses; what needs the backbone (DoRA, fused modules of AdapterHub's LoRA); NaN or infinity, by file
            and tensor.

    Example:
        adapter = deltas.read_unplaced("adapters/sst2")
        a, b = adapter.factors["encoder.layer.0.attention.self.query"]
    """
    folder = Path(folder)
    raw = read_config(folder)
    if "peft_type" in raw:
        found = _peft(raw, folder, allow_pickle, without_head)
    elif "config" in raw:
        adapterhub.check_heads(folder, without_head)
        found = _adapterhub(raw, folder, allow_pickle)
    else:
        raise InputError(f"expected a peft_type or a config in {folder / peft.CONFIG}, got neither; it is of another library")
    found = replace(found, pieces=_sorted(found.pieces))
    found.check_finite()
    return found


# ------------------------------------------------------------ PEFT
def _peft(raw: Mapping[str, Any], folder: Path, allow_pickle: bool, without_head: bool) -> Unplaced:
    path = folder / peft.CONFIG
    kind = peft_config.check(raw, path, without_head=without_head)
    if raw.get("use_dora"):
        raise InputError(f"expected use_dora unset in {path}, to read it without its backbone, got {raw['use_dora']!r}, which divides by the "
                         "lengths of the backbone's weights; give the backbone")
    values, files = find_tensors(folder, peft.SAFE, peft.PICKLED, allow_pickle=allow_pickle)
    tensors = Tensors(peft_config.headless(raw, values, without_head=without_head), folder)
    keep: dict[str, Any] = {"peft_type": kind}
    if kind == "LORA":
        pieces = _peft_lora(raw, tensors, path)
        keep = {}
    elif kind in ("IA3", "LN_TUNING"):
        fits = peft_config.targets(raw, path) or (lambda name: True)
        end = ".ia3_l" if kind == "IA3" else COPY
        chosen = {key: key.removeprefix(peft_config.BASE) for key in tensors.values}
        chosen = {key: name for key, name in chosen.items() if end in name and fits(name.partition(end)[0])}
        entering = feedforward(raw.get("feedforward_modules"), path) if kind == "IA3" else None
        pieces = {}
        for key, name in chosen.items():
            shape = tensors.values[key].shape
            if entering is not None:
                size = int(np.prod(shape))
                shape = (1, size) if entering(name.partition(end)[0]) else (size, 1)
            pieces[name] = Piece(key, tensors.take(key, shape), start=float(kind == "IA3"))
    else:
        keep |= {key: raw[key] for key in sorted(peft_config.READ[kind] | {"task_type"}) if raw.get(key) is not None}
        length = peft_config.number(raw, "num_virtual_tokens", path)
        found = tensors.values.get(KEY)
        whole = (raw.get("num_transformer_submodules") or 1) if kind == "PROMPT_TUNING" else 1
        pieces = {KEY: Piece(KEY, tensors.take(KEY, (whole * length, *(found.shape[1:] if found is not None else ()))))}
    tensors.done("save the whole adapter again, or give its backbone")
    if not pieces:
        raise InputError(f"expected the tensors of {raw.get('target_modules')!r} beside {path}, got none; save the adapter again")
    origin = {"format": "peft", "folder": str(folder), "task_type": raw.get("task_type"), "base_model": raw.get("base_model_name_or_path")}
    return Unplaced(folder=folder, kind=KINDS[kind], library="peft", pieces=pieces, raw=keep, base=_base(raw.get("base_model_name_or_path")),
                    files=(path, *files), provenance={"checkpoint": origin})


def _peft_lora(raw: Mapping[str, Any], tensors: Tensors, path: Path) -> dict[str, Piece]:
    rank, alpha = peft_config.number(raw, "r", path), raw.get("lora_alpha", 8)
    fits = peft_config.targets(raw, path) or (lambda name: True)
    pieces: dict[str, Piece] = {}
    present = dict.fromkeys(key.removeprefix(peft_config.BASE).rpartition(".lora_")[0] for key in tensors.values
                            if key.endswith((".lora_A.weight", ".lora_B.weight")))
    for module in filter(fits, present):
        r = peft_config.number({"rank_pattern": peft_config.overridden(raw.get("rank_pattern"), rank, module, "rank_pattern", path)},
                               "rank_pattern", path)
        own = peft_lora.alpha_of(peft_config.overridden(raw.get("alpha_pattern"), alpha, module, "alpha_pattern", path), path)
        a, b = (f"{peft_config.BASE}{module}.lora_{kind}.weight" for kind in "AB")
        pieces[f"{module}.a"] = Piece(a, _matrix(tensors, a, rows=r), turned=True)
        pieces[f"{module}.b"] = Piece(b, _matrix(tensors, b, columns=r), turned=True, scale=own / (r**0.5 if raw.get("use_rslora") else r))
    return pieces


def _matrix(tensors: Tensors, key: str, *, rows: int | None = None, columns: int | None = None) -> Tensor:
    """A matrix of which one size is known."""
    found = tensors.values.get(key)
    shape = found.shape if found is not None and found.ndim == 2 else (1, 1)
    return tensors.take(key, (rows or shape[0], columns or shape[1]))


def _base(name: Any) -> str | None:
    return str(name).rstrip("/") if name else None


# ------------------------------------------------------------ AdapterHub
def _adapterhub(raw: Mapping[str, Any], folder: Path, allow_pickle: bool) -> Unplaced:
    path, name, version = folder / adapterhub.CONFIG, str(raw.get("name")), str(raw.get("version", ""))
    architecture, config = adapterhub_config.read(raw, path)
    values, files = find_tensors(folder, adapterhub.SAFE, adapterhub.PICKLED, allow_pickle=allow_pickle)
    tensors = Tensors(values, folder)
    word = {None: "adapters", "lora": "loras"}.get(architecture, "prefix_tunings")
    own = [key for key in values if f"{word}.{name}." in key]
    kept: dict[str, Any] = {"name": NAME, "version": version or "0",
                            "config": {key: config[key] for key in sorted(adapterhub_config.MEANING[architecture]) if key in config}}
    pieces: dict[str, Piece] = {}
    if architecture == "lora":
        (r, alpha), kept = lora_sizes(config, version, path), {}
        for module in dict.fromkeys(key.rpartition(".loras.")[0] for key in own):
            a, b = (f"{module}.loras.{name}.lora_{kind}" for kind in "AB")
            if (found := values.get(a)) is not None and found.shape[0] != r:
                raise InputError(f"expected one A of rank {r} in {a} of {folder}, to read it without its backbone, got {found.shape[0]} rows of "
                                 "a module that is fused; give the backbone")
            pieces[f"{module}.a"] = Piece(a, _matrix(tensors, a, rows=r), turned=True)
            pieces[f"{module}.b"] = Piece(b, _matrix(tensors, b, columns=r), turned=True, scale=alpha / r)
    else:
        whole = {key[key.index(f"{word}.{name}.") :]: key for key in own if POOL not in key}
        for key in own:
            value, end = tensors.take(key, values[key].shape), key[key.index(f"{word}.{name}.") :]
            if POOL not in key:
                pieces[key.replace(f"{word}.{name}.", f"{word}.{NAME}.")] = Piece(key, value)
            elif not np.array_equal(value, values[whole[end]] if end in whole else np.zeros(0)):
                tensors.faults.append(f"{key}, which differs from {whole.get(end, 'that of the whole model, which is not there')}")
    tensors.done("save the whole adapter again, or give its backbone")
    if not pieces:
        raise InputError(f"expected the tensors of the adapter {name!r} beside {path}, got none; save the adapter again")
    kind = {None: "adapter", "lora": "lora"}.get(architecture, "prefix")
    origin = {"format": "adapterhub", "folder": str(folder), "name": name, "version": raw.get("version")}
    return Unplaced(folder=folder, kind=kind, library="adapterhub", pieces=pieces, raw=kept, base=_base(raw.get("model_name")),
                    files=(path, *files), provenance={"checkpoint": origin})


def text(raw: Mapping[str, Any]) -> str:
    """A configuration in one form."""
    return json.dumps(raw, sort_keys=True)
