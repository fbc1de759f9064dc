"""Compression: a bank as a basis and a code for each solution, as short as a tolerance allows.

    X_t ≈ Z_t B_t            B_t [k_t, D_t] orthonormal rows, Z_t [n_t, k_t]
    ‖X_t − Z_t B_t‖_F ≤ tolerance · ‖X_t‖_F       with the least k_t, for each type

Each type has its own basis, and no mean is set apart: of all matrices of rank k the leading singular directions of the rows as they are come
closest (Eckart and Young 1936, Psychometrika 1), and a mean would be one more row of D numbers. The codes are fitted to the basis as it is
stored, rounded or not, and the error that is reported is measured on what is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
from jaxtyping import Float32, Float64

from deltas import Reading, Task
from deltas.backbones import Backbone
from deltas.bank import Bank, Solution
from deltas.errors import InputError
from deltas.evaluation import Exam, evaluate_each
from deltas.functional import Attached
from deltas.layout import Layout
from deltas.types import delta_type
from subspace.coded import WIDTHS, Basis, Coded, Width
from subspace.gram import gram, products
from subspace.rows import MEMORY, Rows
from subspace.sources import Block, Pair, Sources, gather
from subspace.tensors import checksum, open_tensors, write_tensors

FILE = "compressed.safetensors"
FORMAT = "deltaspace.compressed.1"


@dataclass(frozen=True, eq=False, kw_only=True)
class Share:
    """What became of one type."""

    k: int
    solutions: int
    error: float
    """‖X − X̂‖_F / ‖X‖_F, measured on what is stored."""
    worst: float
    """The largest ‖x − x̂‖ / ‖x‖ of a solution."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Compressed:
    """A compressed bank: `sources` are its solutions as they can be given back, mapped from the file; `shares` tells of each type.

    `errors` and `scores` are by label in the order of the rows: ‖x − x̂‖ / ‖x‖, and the scores of the originals.
    """

    path: Path
    sources: Sources
    shares: Mapping[str, Share]
    errors: Mapping[str, Sequence[float]]
    scores: Mapping[str, Sequence[Mapping[str, Any]]]
    width: str
    bytes_before: int
    bytes_after: int

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / self.bytes_after

    def __str__(self) -> str:
        types = ", ".join(f"{label} k = {s.k} of {s.solutions} (error {s.error:.2e})" for label, s in self.shares.items())
        return f"{self.bytes_before / 1e6:.1f} MB → {self.bytes_after / 1e6:.1f} MB ({self.ratio:.1f} times smaller): {types}"

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What `compress` wrote, mapped from the file.

        Raises:
            InputError: no such file, or a damaged or altered one.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise InputError(f"expected a compressed bank at {path}, got nothing there; compress a bank first")
        try:
            header, tensors = open_tensors(path)
            if header["format"] != FORMAT or "checksum" not in header:
                raise ValueError("its format differs")
            pairs, blocks, types = tuple((task, seed) for task, seed in header["pairs"]), {}, header["types"]
            for label, about in types.items():
                codes, basis = tensors[f"{label}/codes"], Basis(tensors[f"{label}/basis"], tensors[f"{label}/scale"])
                blocks[label] = Block(config=delta_type(about["config"]), layout=Layout.from_json(about["layout"]),
                                      theta0=tensors[f"{label}/theta0"], fingerprint=about["theta0"], rows=Coded(codes, basis),
                                      members=np.array(about["members"]))
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"expected {path} as it was written, got a damaged or altered file ({error}); compress the bank again") from None
        sources = Sources(name=str(folder), backbone=header["backbone"], pairs=pairs, blocks=blocks, space=header["space"],
                          align=header["align"])
        return cls(path=path, sources=sources, shares={label: Share(**about["share"]) for label, about in types.items()},
                   errors={label: about["errors"] for label, about in types.items()},
                   scores={label: about["scores"] for label, about in types.items()}, width=header["width"],
                   bytes_before=header["bytes"], bytes_after=path.stat().st_size)


def compress(bank: Bank | Sources, tolerance: float | Mapping[str, float], out: str | Path, *, dtype: Width = "float16",
             labels: Sequence[str] | None = None, pairs: Sequence[Pair] | None = None) -> Compressed:
    """Write a bank's solutions as bases and codes: `out`/compressed.safetensors, whole or not at all.

    Args:
        bank: or sources.
        tolerance: of each type's ‖X − X̂‖_F / ‖X‖_F, above 0 and below 1; or one by label.
        dtype: of the bases. float16 costs about 3e-4 and int8 about 1e-2 of that tolerance, float32 next to nothing.
        labels, pairs: what of the bank; None is all types, and every solution that there is.

    Raises:
        InputError: a tolerance that cannot be kept, by its dtype.

    Example:
        print(subspace.compress(bank, 0.05, "small/"))
    """
    sources, tensors, types = gather(bank, labels, pairs, missing=pairs is None), {}, {}
    if dtype not in WIDTHS:
        raise InputError(f"expected dtype to be {' or '.join(WIDTHS)}, got {dtype!r}; choose one of them")
    for label, block in sources.blocks.items():
        wanted = tolerance.get(label) if isinstance(tolerance, Mapping) else tolerance
        if wanted is None or not 0 < wanted < 1:
            raise InputError(f"expected a tolerance above 0 and below 1 for {label}, got {wanted}; choose another")
        codes, basis, errors, share = _fitted(label, block.rows, wanted, dtype)
        tensors |= {f"{label}/codes": codes, f"{label}/basis": basis.stored, f"{label}/scale": basis.scale, f"{label}/theta0": block.theta0}
        own = [sources.pairs[n] for n in block.members]
        types[label] = {"config": block.config.to_json(), "layout": block.layout.to_json(), "theta0": block.fingerprint,
                        "members": block.members.tolist(), "share": vars(share), "errors": errors.tolist(),
                        "scores": [dict(bank.scores(label, *pair)) if isinstance(bank, Bank) else {} for pair in own]}
    header = {"format": FORMAT, "of": sources.name, "backbone": sources.backbone, "pairs": [list(pair) for pair in sources.pairs],
              "space": sources.space, "align": sources.align, "width": dtype, "types": types, "bytes": _bytes(bank, sources),
              "checksum": checksum(tensors)}
    write_tensors(Path(out) / FILE, tensors, header)
    return Compressed.load(out)


def _fitted(label: str, rows: Rows, tolerance: float, width: Width) -> tuple[np.ndarray, Basis, np.ndarray, Share]:
    """Codes and basis of the least k that keeps the tolerance after rounding, and the errors that are left."""
    inner = gram(rows)
    values, vectors = np.linalg.eigh(inner)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    total, sizes = float(values.sum()), np.sqrt(np.diagonal(inner))
    if total == 0:
        return np.zeros((len(rows), 0), np.float32), Basis.of(np.zeros((0, rows.size), np.float32), width), np.zeros(len(rows)), Share(
            k=0, solutions=len(rows), error=0.0, worst=0.0)
    tail = np.append(np.cumsum(values[::-1])[::-1], 0.0)  # of what k directions leave
    reach, lost, k = int(np.sum(values > 1e-14 * values[0])), 0.0, 0
    while True:
        enough = np.flatnonzero(tail[: reach + 1] + lost <= tolerance**2 * total)
        if k == reach or not len(enough):
            raise InputError(f"expected a tolerance that {width} can keep for {label}, got {tolerance}, where rounding alone costs "
                             f"{np.sqrt(lost / total):.1e}; {'raise it' if width == 'float32' else 'raise it, or use float32'}")
        k = max(k + 1, int(enough[0]))
        basis = Basis.of(rows.combine((vectors[:, :k] / np.sqrt(values[:k])).T), width)
        codes = _codes(rows, basis)
        left = _left(rows, codes, basis)
        if left.sum() <= tolerance**2 * total:
            errors = np.divide(np.sqrt(left), sizes, out=np.zeros(len(rows)), where=sizes > 0)
            return codes, basis, errors, Share(k=k, solutions=len(rows), error=float(np.sqrt(left.sum() / total)), worst=float(errors.max()))
        lost = max(float(left.sum() - tail[k]), 0.0)


def _codes(rows: Rows, basis: Basis) -> Float32[np.ndarray, "n k"]:
    """The codes of least error on the basis as it is stored."""
    stored = basis.columns(slice(0, basis.stored.shape[1]))
    metric = products(stored, list(stored))
    return np.linalg.solve(metric, products(stored, rows).T).T.astype(np.float32)


def _left(rows: Rows, codes: np.ndarray, basis: Basis) -> Float64[np.ndarray, " n"]:
    """‖x − z B‖² of every row."""
    left, wide = np.zeros(len(rows)), codes.astype(np.float64)
    for columns, block in rows.blocks(MEMORY // 2):
        block -= wide @ basis.columns(columns)
        left += np.einsum("nc,nc->n", block, block)
    return left


def _bytes(bank: Bank | Sources, sources: Sources) -> int:
    """Of the files that are compressed; of arrays, of the numbers."""
    if not isinstance(bank, Bank):
        return sum(4 * block.rows.size * (len(block.rows) + 1) for block in sources.blocks.values())
    files = [bank.path / "theta0" / f"{label}.safetensors" for label in sources.labels]
    files += [bank.file(label, *sources.pairs[n]) for label, block in sources.blocks.items() for n in block.members]
    return sum(file.stat().st_size for file in files)


def decompress(folder: str | Path, out: str | Path) -> Bank:
    """A compressed bank as a bank again, whose solutions say that they are reconstructions.

    Each has `scores["original"]`, the scores of what it was made from, and `provenance["reconstruction"]` with its own error and the file.
    What was there already of the same reconstruction is written again; an original is never overwritten.

    Raises:
        InputError: a damaged file, or a folder that holds other solutions of the same names.

    Example:
        bank = subspace.decompress("small/", "bank_again/")
    """
    small, bank = Compressed.load(folder), Bank(out, create=True)
    for label, block in small.sources.blocks.items():
        for n in block.members:
            task, seed = small.sources.pairs[n]
            if bank.file(label, task, seed).is_file() and "reconstruction" not in bank.load(label, task, seed).provenance:
                raise InputError(f"expected a folder without the originals to write reconstructions to, got {bank.file(label, task, seed)}; "
                                 "choose another")
    for label, block in small.sources.blocks.items():
        start = SimpleNamespace(config=block.config, layout=block.layout, theta0=block.theta0, label=label,
                                backbone=SimpleNamespace(fingerprint=small.sources.backbone), theta0_fingerprint=block.fingerprint)
        bank.add_start(cast("Attached", start))  # it asks for no more than that
        for row, n in enumerate(block.members):
            task, seed = small.sources.pairs[n]
            about = {"file": str(small.path), "error": small.errors[label][row], "k": small.shares[label].k, "dtype": small.width}
            bank.add(Solution(task=task, seed=seed, config=block.config, layout=block.layout, vector=block.rows[row], theta0=block.theta0,
                              backbone=small.sources.backbone, theta0_fingerprint=block.fingerprint,
                              scores={"original": dict(small.scores[label][row])}, provenance={"reconstruction": about}))
    return bank


def scores_kept(small: Compressed, bank: Bank | Sources, backbone: Backbone, tasks: Sequence[Task], *, split: str = "test",
                reading: Reading | None = None, rows: int | None = None, in_flight: int | None = None) -> list[dict[str, Any]]:
    """What compression costs in scores: every solution of the tasks, as it was and as it is given back.

    Returns:
        One {"label", "task", "seed", "metric", "original", "reconstructed", "error"} a solution.

    Example:
        lines = subspace.scores_kept(subspace.compress(bank, 0.05, "small/"), bank, backbone, tasks)
    """
    reading, by_name, lines = reading or Reading(), {task.name: task for task in tasks}, []
    whole = gather(bank, small.sources.labels, small.sources.pairs, missing=True)
    for label, block in small.sources.blocks.items():
        own = [small.sources.pairs[m] for m in block.members]
        place = {whole.pairs[m]: n for n, m in enumerate(whole.blocks[label].members)}
        chosen = [n for n, pair in enumerate(own) if pair[0] in by_name and pair in place]
        if not chosen:
            continue
        attached = Attached.of(backbone, block.config, theta0=block.theta0)
        exams = [Exam.of(backbone, by_name[own[n][0]], split, reading, rows) for n in chosen]
        vectors = ([whole.blocks[label].rows[place[own[n]]] for n in chosen], [block.rows[n] for n in chosen])
        found = [evaluate_each(attached, block.theta0 + np.stack(each), exams, in_flight=in_flight) for each in vectors]
        for n, before, after in zip(chosen, *found, strict=True):
            lines.append({"label": label, "task": own[n][0], "seed": own[n][1], "metric": by_name[own[n][0]].metric,
                          "original": before.score, "reconstructed": after.score, "error": small.errors[label][n]})
    if not lines:
        raise InputError(f"expected tasks of the compressed solutions, got {', '.join(by_name) or 'none'}; name some of them")
    return lines
