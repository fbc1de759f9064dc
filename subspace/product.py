"""LoRA in product space: what is compared is the change of weights ΔW = A B, of which A G⁻¹ and G B are the same, and not A and B.

    ⟨ΔW_m, ΔW_n⟩ = Σ_modules tr(Bᵀ_m Aᵀ_m A_n B_n) = Σ_modules 1ᵀ [(Aᵀ_m A_n) ∘ (B_m Bᵀ_n)] 1            A [in, r], B [r, out]

so that solutions of different ranks and at different modules have one Gram matrix, and no [in, out] is formed for it. As vectors they are
written in a core: the columns of Q [in, R] are an orthonormal basis of what all ΔW of a module reach, R ≤ min(Σ r_n, in), and

    x_n = (Qᵀ A_n B_n of every module)      ⟨x_m, x_n⟩ = ⟨ΔW_m, ΔW_n⟩      ΔW_n = Q x_n

That is a LoRA again, of rank R with A = Q: its θ0 is (Q, 0), and mean and directions of a subspace are 0 at the entries of A, so that a point of
the space is decoded, attached and tuned as any LoRA is. A module that a solution does not have counts as ΔW = 0.

Source: the small core is that of Core Space (Panariello et al. 2025, arXiv 2509.17786), one-sided, since B follows from the combination.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from deltas.attach import natural, select
from deltas.checkpoints.unplaced import Factors, lora_at
from deltas.errors import InputError
from deltas.files import sha256
from deltas.layout import Layout
from deltas.parallel import threads_for
from deltas.types import LoRA
from subspace.cores import Core, ProductRows, split
from subspace.rows import Rows
from subspace.sources import Block, Sources


def product_rows(solutions: Sequence[Factors], *, rank: int | None = None, names: Sequence[str] = ()) -> ProductRows:
    """LoRA solutions as rows in product space.

    Args:
        solutions: module → A [in, r] and B [r, out], the scale in one of them; ranks and modules may differ. They are read several times.
        rank: of the cores at most; None is all that the solutions reach, so that no inner product changes.
        names: what errors call the solutions.

    Raises:
        InputError: a module of two sizes, or solutions that change no weight.
    """
    if rank is not None and (type(rank) is not int or rank < 1):
        raise InputError(f"expected a rank of the cores of at least 1, got {rank!r}; choose another")
    called = list(names) or [f"row {n}" for n in range(len(solutions))]
    cores: dict[str, Core] = {}
    for module in sorted({module for solution in solutions for module in solution}, key=natural):
        core = Core.of(_of_one_size(module, solutions, called), rank)
        if core.energy:
            cores[module] = core
    if not cores:
        raise InputError("expected LoRA solutions that change weights, got none whose A B is not 0; train them first")
    return ProductRows(solutions, cores, names=names)


def _of_one_size(module: str, solutions: Sequence[Factors], names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    first, size = "", None
    for name, solution in zip(names, solutions, strict=True):
        if module in solution:
            a, b = solution[module]
            own = (a.shape[0], b.shape[1])
            first, size = (name, own) if size is None else (first, size)
            if own != size:
                raise InputError(f"expected {module} of {size[0]} inputs and {size[1]} outputs as in {first}, got {own[0]} and {own[1]} in "
                                 f"{name}; keep adapters of different bases apart")
            yield a, b


def product_block(label: str, rows: ProductRows, members: np.ndarray, sites: LoRA | None = None) -> Block:
    """The block of one label: a LoRA with A = Q, B = 0 as its θ0.

    Args:
        sites: a LoRA whose patterns choose the same modules, to be kept; without it each is named.
    """
    ranks = {module: core.q.shape[1] for module, core in rows.cores.items()}
    config = lora_at(ranks, label)
    if sites is not None:
        config = replace(config, sites=sites.sites, exclude=sites.exclude)
    layout = rows.layout
    values = [rows.cores[split(name)[0]].q if name.endswith(".a") else np.zeros(shape) for name, shape in zip(layout.names, layout.shapes)]
    theta0 = np.concatenate([value.reshape(-1) for value in values]).astype(np.float32)
    return Block(config=config, layout=layout, theta0=theta0, fingerprint=sha256(theta0.tobytes(), str(layout.to_json())), rows=rows,
                 members=np.asarray(members))


def in_product_space(sources: Sources, *, rank: int | None = None) -> Sources:
    """The same sources with every LoRA block in product space; blocks of other types stay as they are.

    Args:
        sources: of a bank (the whole change of weights counts, from θ0 + x) or of folders.
        rank: see `product_rows`.

    Raises:
        InputError: no LoRA among the types, or one with `dora`, whose change depends on the backbone's weights; a rank for sources that are
            in product space already.

    Example:
        space = subspace.joint_svd(subspace.in_product_space(subspace.gather(bank)), k=16)
    """
    if sources.space == "product":
        if rank is not None:
            raise InputError(f"expected sources in factors, to bound the rank of their cores, got {sources.name} in product space; leave it out")
        return sources
    blocks = dict(sources.blocks)
    found = {label: block for label, block in blocks.items() if isinstance(block.config, LoRA)}
    if not found:
        raise InputError(f"expected a lora among the types of {sources.name}, to compare its products, got {', '.join(blocks)}; use the factors")
    for label, block in found.items():
        rows = product_rows([factors_of(block.config, block.layout, block.theta0, block.rows, n) for n in range(len(block.rows))], rank=rank,
                            names=[block.rows.name(n) for n in range(len(block.rows))])
        config: Any = block.config
        same = len(rows.cores) == sum(name.endswith(".a") for name in block.layout.names)
        blocks[label] = product_block(label, rows, block.members, config if same else None)
    return replace(sources, blocks=blocks, space="product")


def factors_of(config: Any, layout: Layout, theta0: Float32[np.ndarray, " D"], rows: Rows, n: int) -> Factors:
    """A and B of row n, θ − θ0 of a LoRA: the scale in B, read when they are asked for."""
    return _OfRow(rows, n, theta0, layout, scales(config, layout))


def scales(config: Any, layout: Layout) -> dict[str, float]:
    """By module of a LoRA's layout, alpha / rank or alpha / √rank."""
    if config.dora:
        raise InputError(f"expected a LoRA without dora in product space, got {config.label}, whose change depends on the backbone's weights; "
                         "use the factors")
    ranks = {split(name)[0]: shape[1] for name, shape in zip(layout.names, layout.shapes, strict=True) if name.endswith(".a")}
    alphas: dict[str, Any] = dict.fromkeys(ranks, config.alpha)
    for pattern, value in reversed(config.alpha_pattern):  # the first that matches has the last word
        alphas |= dict.fromkeys(select(ranks, (pattern,)), value)
    return {module: alphas[module] / (math.sqrt(rank) if config.rslora else rank) for module, rank in ranks.items()}


class _OfRow(Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """The factors of θ0 + x by module."""

    def __init__(self, rows: Rows, n: int, theta0: np.ndarray, layout: Layout, by_module: Mapping[str, float]) -> None:
        self._rows, self._n, self._theta0, self._layout, self._scales = rows, n, theta0, layout, by_module
        self._place = {name: (slice(start, start + math.prod(shape)), shape)
                       for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True)}

    def __getitem__(self, module: str) -> tuple[np.ndarray, np.ndarray]:
        (here, shape_a), (there, shape_b) = self._place[f"{module}.a"], self._place[f"{module}.b"]
        x = self._rows.columns([here, there])[self._n]
        a, b = np.split(x + np.concatenate([self._theta0[here], self._theta0[there]]), [math.prod(shape_a)])
        return a.reshape(shape_a), np.float32(self._scales[module]) * b.reshape(shape_b)

    def __contains__(self, module: object) -> bool:
        return module in self._scales

    def __iter__(self) -> Iterator[str]:
        return iter(self._scales)

    def __len__(self) -> int:
        return len(self._scales)


def coordinates(layout: Layout, theta0: Float32[np.ndarray, " D"], factors: Factors) -> tuple[Float32[np.ndarray, " D"], float, float]:
    """Any LoRA in the cores of a product space: x = θ − θ0, what of ‖ΔW‖² lies outside, and all of it.

    A change at a module that the space does not have lies outside.

    Args:
        layout, theta0: of the space's part.
    """
    place = dict(zip(layout.names, layout.offsets, strict=True))
    x, inside, total = np.zeros(layout.size, np.float32), 0.0, 0.0
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    for module in factors:
        a, b = (factor.astype(np.float64) for factor in factors[module])
        total += float(np.sum((a.T @ a) * (b @ b.T)))
        if f"{module}.a" not in place:
            continue
        (n_in, rank), (_, n_out) = shapes[f"{module}.a"], shapes[f"{module}.b"]
        if (a.shape[0], b.shape[1]) != (n_in, n_out):
            raise InputError(f"expected {module} of {n_in} inputs and {n_out} outputs as in the space, got {a.shape[0]} and {b.shape[1]}; "
                             "choose an adapter of the same base")
        start = place[f"{module}.a"]
        core = theta0[start : start + n_in * rank].reshape(n_in, rank).astype(np.float64)
        with threads_for(core.size):
            q, _ = np.linalg.qr(core)
        q *= np.sign(np.einsum("ir,ir->r", q, core))
        found = (q.T @ a) @ b
        inside += float(np.sum(found * found))
        x[place[f"{module}.b"] : place[f"{module}.b"] + rank * n_out] = found.reshape(-1)
    return x, max(total - inside, 0.0), total
