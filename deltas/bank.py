"""A bank: a folder of solutions, with θ0 once per delta type.

    bank/theta0/<label>.safetensors                      θ0, its configuration and layout
    bank/solutions/<label>/<task>.<seed>.safetensors     one solution each: the vector θ − θ0, and all about it in the header
    bank/failed/<label>/<task>.<seed>.json               a solution that became NaN, with its step

There is no index to go stale: the bank is what is in the folder. Files are written whole or not at all. One solution is read memory-mapped;
rows of many stay in their files until they are used, so that thousands need neither memory nor open files.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote

import numpy as np

from deltas.errors import InputError
from deltas.filed import Filed
from deltas.files import read_json, replacing, sha256, write_json
from deltas.functional import Attached
from deltas.layout import Layout
from deltas.types import DeltaType, delta_type


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {}
    for name in ("deltaspace", "jax", "flax", "optax", "transformers", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "source"
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Solution:
    """One trained delta: θ − θ0 ∈ R^D for (task, type, seed), with its scores and its provenance."""

    task: str
    seed: int
    config: DeltaType
    layout: Layout
    vector: np.ndarray
    theta0: np.ndarray
    backbone: str
    """Fingerprint of the backbone."""
    theta0_fingerprint: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The delta's label."""
        return self.config.label

    @property
    def theta(self) -> np.ndarray:
        """θ float32 [D], the parameters that are run."""
        return self.theta0 + self.vector

    def header(self) -> dict[str, str]:
        """What the file's header says; its checksum is over the vector and all the rest of the header."""
        header = _json({
            "format": "deltaspace.solution.1", "task": self.task, "seed": self.seed, "type": self.config.to_json(),
            "layout": self.layout.to_json(), "backbone": self.backbone, "theta0": self.theta0_fingerprint, "scores": dict(self.scores),
            "provenance": dict(self.provenance)})
        return header | _json({"checksum": checksum(header, self.vector)})


class Bank:
    """A folder of solutions that share a backbone."""

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        """Open the bank at `path`; `create` makes an empty one where there is none."""
        self.path = Path(path)
        if not create and not (self.path / "theta0").is_dir():
            raise InputError(f"expected a bank (a folder with theta0/ and solutions/), got {self.path}; train one first")
        self._starts: dict[str, _Start] = {}

    # ------------------------------------------------------------ what is here
    def labels(self) -> list[str]:
        """The delta types by label, sorted."""
        return sorted(p.stem for p in (self.path / "theta0").glob("*.safetensors") if not p.name.startswith("."))

    def start(self, label: str) -> "_Start":
        """θ0 of the label, with its configuration, layout and fingerprints."""
        if label not in self._starts:
            path = self.path / "theta0" / f"{label}.safetensors"
            if not path.is_file():
                raise InputError(f"expected a delta type of the bank ({', '.join(self.labels()) or 'empty'}), got {label!r}; choose one")
            self._starts[label] = _Start.read(path)
        return self._starts[label]

    def theta0(self, label: str) -> np.ndarray:
        """θ0 float32 [D]."""
        return self.start(label).theta0

    def theta0_fingerprint(self, label: str) -> str:
        """The fingerprint of θ0 and its layout."""
        return self.start(label).fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """The backbone's fingerprint."""
        found = {label: self.start(label).backbone for label in self.labels()}
        if len(set(found.values())) != 1:
            raise InputError(f"expected a bank of one backbone, got {found or 'an empty bank'}; keep one bank per backbone")
        return next(iter(found.values()))

    def pairs(self, labels: Sequence[str] | None = None) -> list[tuple[str, int]]:
        """The (task, seed) pairs that every label has a solution for, sorted."""
        sets = []
        for label in self.labels() if labels is None else labels:
            self.start(label)
            names = (p.name.removesuffix(".safetensors").rpartition(".") for p in self._folder(label).glob("[!.]*.safetensors"))
            sets.append({(unquote(task), int(seed)) for task, _, seed in names})
        return sorted(set.intersection(*sets)) if sets else []

    def failed(self) -> list[dict[str, Any]]:
        """The solutions that failed: label, task, seed, step."""
        return [read_json(p) for p in sorted((self.path / "failed").glob("*/[!.]*.json"))]

    # ------------------------------------------------------------ reading and writing
    def rows(self, label: str, pairs: Sequence[tuple[str, int]]) -> list[Filed]:
        """θ − θ0, float32 [D] in its file, for each pair.

        A truncated file or one of another start is refused by name here; one whose numbers were altered, or that changes later, as its
        numbers are read: before anything is made of the last of them.
        """
        found = []
        for task, seed in pairs:
            path = self.file(label, task, seed)
            header, shape, offset = _place(path, "vector")
            self._solution(label, path, header, np.empty(0, np.float32))
            with _whole(path):
                found.append(Filed(path, offset, *shape, checksum=header["checksum"] or "", after=_covered(header)))
        return found

    def load(self, label: str, task: str, seed: int) -> Solution:
        """One solution, its vector memory-mapped."""
        path = self.file(label, task, seed)
        header, vector = _read(path, "vector")
        solution = self._solution(label, path, header, vector)
        with _whole(path):
            if sha256(*_covered(header), vector.tobytes()) != header["checksum"]:
                raise InputError(f"expected {path} as it was written, got other contents (its checksum differs); train it again")
        return solution

    def _solution(self, label: str, path: Path, header: Mapping[str, Any], vector: np.ndarray) -> Solution:
        """What a file's header says, of this bank's backbone and θ0."""
        start = self.start(label)
        with _whole(path):
            solution = Solution(
                task=header["task"], seed=header["seed"], config=delta_type(header["type"]), layout=Layout.from_json(header["layout"]),
                vector=vector, theta0=start.theta0, backbone=header["backbone"], theta0_fingerprint=header["theta0"],
                scores=header["scores"], provenance=header["provenance"])
            start.check(solution, f"in the bank {self.path}", str(path))
        return solution

    def scores(self, label: str, task: str, seed: int) -> dict[str, Any]:
        """The scores of one solution, without reading its vector."""
        return _header(self.file(label, task, seed))[0]["scores"]

    def add_start(self, attached: Attached) -> None:
        """Store θ0 of a type, once; a bank that has another one refuses."""
        mine = _Start(attached.config, attached.layout, attached.theta0, attached.backbone.fingerprint, attached.theta0_fingerprint)
        path = self.path / "theta0" / f"{attached.label}.safetensors"
        if not path.is_file():
            return _write(path, mine.header(), "theta0", mine.theta0)
        theirs = self.start(attached.label)
        for what in ("backbone", "fingerprint"):
            if getattr(theirs, what) != getattr(mine, what):
                name = "θ0" if what == "fingerprint" else what
                raise InputError(f"expected {attached.label} of {name} {getattr(theirs, what)} as in the bank {self.path}, got "
                                 f"{getattr(mine, what)}; choose another bank folder")

    def add(self, solution: Solution) -> None:
        """Store one solution; one of another backbone or another θ0 than the bank's is refused."""
        self.start(solution.label).check(solution, f"in the bank {self.path}", f"{solution.task}.{solution.seed}")
        full = replace(solution, provenance={**solution.provenance, "versions": versions()})
        _write(self.file(solution.label, solution.task, solution.seed), full.header(), "vector", solution.vector)

    def add_failure(self, label: str, task: str, seed: int, step: int) -> None:
        """Mark a solution as failed at a step."""
        write_json(self.path / "failed" / label / f"{quote(task, safe='')}.{seed}.json",
                   {"label": label, "task": task, "seed": seed, "step": step})

    def has(self, label: str, task: str, seed: int) -> bool:
        """Whether the solution is here, finished or failed."""
        return self.file(label, task, seed).is_file() or any(
            (f["label"], f["task"], f["seed"]) == (label, task, seed) for f in self.failed())

    def file(self, label: str, task: str, seed: int) -> Path:
        """Where a solution is stored."""
        return self._folder(label) / f"{quote(task, safe='')}.{seed}.safetensors"

    def _folder(self, label: str) -> Path:
        return self.path / "solutions" / label


@dataclass(frozen=True, eq=False)
class _Start:
    """θ0 of one label as it is stored."""

    config: DeltaType
    layout: Layout
    theta0: np.ndarray
    backbone: str
    fingerprint: str

    def check(self, solution: Solution, where: str, what: str) -> None:
        """Refuse a solution of another backbone or another θ0."""
        for of, theirs, ours in (("backbone", solution.backbone, self.backbone), ("θ0", solution.theta0_fingerprint, self.fingerprint)):
            if theirs != ours:
                raise InputError(f"expected solutions of {of} {ours} {where}, got {what} of {of} {theirs}; move it to a bank of its own")

    def header(self) -> dict[str, str]:
        return _json({"format": "deltaspace.theta0.1", "type": self.config.to_json(), "layout": self.layout.to_json(),
                      "backbone": self.backbone, "fingerprint": self.fingerprint})

    @classmethod
    def read(cls, path: Path) -> Self:
        header, theta0 = _read(path, "theta0")
        with _whole(path):
            layout = Layout.from_json(header["layout"])
            if sha256(theta0.tobytes(), str(layout.to_json())) != header["fingerprint"]:
                raise InputError(f"expected {path} as it was written, got other contents (its fingerprint differs); restore it")
            return cls(delta_type(header["type"]), layout, np.array(theta0), header["backbone"], header["fingerprint"])


def _json(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value, sort_keys=True) for name, value in values.items()}


def checksum(header: Mapping[str, str], vector: np.ndarray) -> str:
    """Over the vector and the header's texts as they are stored, whatever later versions add to a configuration."""
    return sha256(*_lines(header), vector.tobytes())


def _lines(header: Mapping[str, str]) -> list[str]:
    return [f"{name}={text}\n" for name, text in sorted(header.items())]


def _covered(header: Mapping[str, Any]) -> list[str]:
    """What a file's checksum covers before the vector: its header as it was read, but for the checksum."""
    return _lines(_json({name: value for name, value in header.items() if name != "checksum"}))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Whatever goes wrong in reading the contents of a file means that they are not what was written."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected a whole file of this package at {path}, got a damaged one ({reason}); "
                         "remove it and train it again") from None


def _write(path: Path, header: Mapping[str, str], name: str, values: np.ndarray) -> None:
    """One float32 vector as safetensors; not by the library, whose header has another order in every process."""
    data = np.ascontiguousarray(values, "<f4")
    entries = {"__metadata__": dict(sorted(header.items())),
               name: {"dtype": "F32", "shape": list(data.shape), "data_offsets": [0, data.nbytes]}}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + data.tobytes())


def _header(path: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Our metadata, the tensors' entries, and where the data starts: a safetensors file opens with its header's length and JSON."""
    if not path.is_file():
        raise InputError(f"expected a solution at {path}, got nothing there; train it first")
    with _whole(path), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        return {k: json.loads(v) for k, v in entries.pop("__metadata__").items()}, entries, 8 + length


def _place(path: Path, name: str) -> tuple[dict[str, Any], tuple[int, ...], int]:
    """Our metadata, the shape of the one tensor, and the byte where it begins."""
    header, entries, start = _header(path)
    with _whole(path):
        (first, last), shape = entries[name]["data_offsets"], tuple(entries[name]["shape"])
        if start + last != path.stat().st_size or last - first != 4 * math.prod(shape):
            raise ValueError("its length is not the one its header says")
        return header, shape, start + first


def _read(path: Path, name: str) -> tuple[dict[str, Any], np.ndarray]:
    header, shape, offset = _place(path, name)
    with _whole(path):
        return header, np.memmap(path, np.float32, "r", offset=offset, shape=shape)
