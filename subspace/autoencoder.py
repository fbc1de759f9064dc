"""autoencoder: the paper's learned projections, trained by reconstruction and by the task losses of all types at once.

For one example (or batch) of a task whose solutions are θ_t (here: less θ0_t and the start's mean), with a point w of the simplex of types:

    z_t = W2 tanh(W1 θ_t + b1) + b2,   z_mix = Σ_t w_t z_t
    loss = Σ_t [ α ‖θ_t − z_t U_t‖₂ + CE(backbone at θ0_t + z_mix U_t) ]

"single": one task, one w a batch. "multi": one set of projections for all tasks; every example brings its own task's θ_t and its own w.
What is kept is the step with the least dev loss, averaged over types and over a FIXED set of mixes (each type alone, and all in equal
parts): random mixes would make the choice of a step a lottery. In the end z is whitened, which changes no θ that can be decoded.

This module prepares and finishes; `subspace.learning` holds the loop.

Source: Yi et al. 2022, sections 3 and 4, and the authors' code. Departures: the uniform simplex and the start from joint_svd are the
defaults, types may differ in size, dev loss on fixed mixes selects, z is whitened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from deltas.bank import Bank
from deltas.errors import InputError, at_least_one, one_of
from deltas.evaluation import tokens_of
from deltas.functional import Attached
from deltas.tasks import Encoded, Reading, Task
from subspace.base import Network, Subspace, part_of
from subspace.gram import centred, gram, unexplained
from subspace.joint_svd import joint_svd
from subspace.learning import Run
from subspace.looping import OnStep
from subspace.sources import Pair, Sources, gather

LINEAR = 0.1
"""A start from joint_svd enters tanh at a tenth of z: there it is linear to about a percent."""
STD = 0.02


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """How the projections are learned.

    setting: "single" task (alpha 0.1, batch 8) or "multi" (alpha 10, batch 16); `alpha` and `batch_size` override these.
    start: from "joint_svd", or "random" as in the paper: every projection N(0, 0.02²), no mean.
    simplex: weights of the types, uniform ("dirichlet") or by "stick_breaking", which favours the first type by label.
    reconstruction: the "norm" of θ − zU, neither squared nor averaged, or its "mean_square".
    optimizer, learning_rate: constant over `steps` updates. rows_per_task: each task counts with as many rows as the largest has, at most
    this. evaluate_every: steps between two looks at the first `dev_rows` dev rows of every task. segment: steps scanned together.
    """

    setting: Literal["single", "multi"] = "multi"
    start: Literal["joint_svd", "random"] = "joint_svd"
    simplex: Literal["dirichlet", "stick_breaking"] = "dirichlet"
    reconstruction: Literal["norm", "mean_square"] = "norm"
    alpha: float | None = None
    optimizer: Literal["adafactor", "adam"] = "adafactor"
    learning_rate: float = 1e-4
    steps: int = 400
    batch_size: int | None = None
    rows_per_task: int = 20_000
    evaluate_every: int = 100
    dev_rows: int = 16
    segment: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(self, "the autoencoder's", "steps", "batch_size", "rows_per_task", "evaluate_every", "dev_rows", "segment")
        one_of(self, "the autoencoder's", **CHOICES)
        if self.learning_rate <= 0 or (self.alpha is not None and self.alpha < 0):
            raise InputError(f"expected a learning_rate above 0 and an alpha of at least 0, got {self.learning_rate} and {self.alpha}; "
                             "choose others")

    @property
    def weight(self) -> float:
        """α."""
        return self.alpha if self.alpha is not None else {"single": 0.1, "multi": 10.0}[self.setting]

    @property
    def batch(self) -> int:
        """Rows an update."""
        return self.batch_size or {"single": 8, "multi": 16}[self.setting]


CHOICES = {"setting": ("single", "multi"), "start": ("joint_svd", "random"), "simplex": ("dirichlet", "stick_breaking"),
           "reconstruction": ("norm", "mean_square"), "optimizer": ("adafactor", "adam")}


def autoencoder(
    bank: Bank | Sources,
    k: int,
    *,
    attached: Mapping[str, Attached],
    tasks: Sequence[Task] | Mapping[str, Task],
    reading: Reading | None = None,
    settings: Autoencoder | None = None,
    labels: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
    checkpoint: str | Path | None = None,
    save_every: float = 300.0,
    on_step: OnStep | None = None,
) -> Subspace:
    """The shared subspace by learned projections.

    Args:
        attached: the backbone with each type at the bank's θ0, by label (`deltas.attached_from`).
        tasks: those of the pairs, and possibly others.
        labels: the delta types; None is all that are attached.
        pairs: the (task, seed) of the source solutions; None is all that every type has.
        checkpoint: a file; an interrupted run goes on from it to the same result, bit for bit. Remove it when the subspace is saved.
        save_every: seconds between two writings of it.

    Raises:
        InputError: solutions of a task or a type that is not given, a type at another θ0 or on another backbone than the bank's, more than
            one task in the single-task setting, k beyond what the start reaches, or a loss that is not finite from the start.

    Example:
        attached = {label: deltas.attached_from(bank, backbone, label) for label in bank.labels()}
        space = subspace.autoencoder(bank, k=16, attached=attached, tasks=tasks)
    """
    sources = gather(bank, list(attached) if labels is None else labels, pairs)
    labels, reading = sources.labels, reading or Reading()
    given = {task.name: task for task in (tasks.values() if isinstance(tasks, Mapping) else tasks)}
    needed = sorted({task for task, _ in sources.pairs})
    for what, names, known in (("task", needed, given), ("delta type", labels, attached)):
        if lacking := [name for name in names if name not in known]:
            raise InputError(f"expected the {what} {lacking[0]!r} of the solutions, got {', '.join(known) or 'none'}; pass it too")
    for label in labels:
        if (theirs := attached[label].theta0_fingerprint) != (ours := sources.blocks[label].fingerprint):
            raise InputError(f"expected {label} at the θ0 {ours} of the bank {sources.name}, got θ0 {theirs}; "
                             "attach it with deltas.attached_from")
    backbone = attached[labels[0]].backbone
    if backbone.fingerprint != sources.backbone:
        raise InputError(f"expected the backbone {sources.backbone} of the bank {sources.name}, got {backbone.name} with fingerprint "
                         f"{backbone.fingerprint}; use the backbone it was trained on")
    if backbone.kind == "encoder":
        raise InputError(f"expected a backbone that writes its answers for the autoencoder, got the encoder {backbone.name}; use joint_svd")
    splits = [{name: tokens_of(backbone, given[name].split(split), name, reading) for name in needed} for split in ("train", "dev")]
    return learn(sources, k, attached={label: attached[label] for label in labels}, train=splits[0], dev=splits[1], reading=reading,
                 settings=settings, checkpoint=checkpoint, save_every=save_every, on_step=on_step)


def learn(
    bank: Bank | Sources,
    k: int,
    *,
    attached: Mapping[str, Attached],
    train: Mapping[str, Encoded],
    dev: Mapping[str, Encoded],
    reading: Reading | None = None,
    settings: Autoencoder | None = None,
    pairs: Sequence[Pair] | None = None,
    checkpoint: str | Path | None = None,
    save_every: float = 300.0,
    on_step: OnStep | None = None,
) -> Subspace:
    """As `autoencoder`, on the tasks' token ids by name."""
    settings = settings or Autoencoder()
    sources = gather(bank, list(attached), pairs)
    sources.needs_all("autoencoder")
    labels, pairs = sources.labels, sources.pairs
    tasks = {task for task, _ in pairs}
    if k < 1:
        raise InputError(f"expected k of at least 1, got {k}; raise it")
    if settings.setting == "single" and len(tasks) > 1:
        raise InputError(f"expected solutions of one task in the single-task setting, got {len(tasks)} tasks; choose pairs of one, or the "
                         "setting 'multi'")
    if settings.start == "joint_svd" and k > len(pairs) - 1:
        raise InputError(f"expected k of at most {len(pairs) - 1} to start from joint_svd of {len(pairs)} solutions, got {k}; lower k, or "
                         "set start to 'random'")
    # one order inside, whatever the caller's: random numbers must fall on the same types and rows
    inside = gather(sources, sorted(labels), sorted(pairs))
    types, ordered, rows = inside.labels, inside.pairs, inside.rows
    means, start = _start(inside, k, settings)
    x = {label: np.stack([rows[label][n] for n in range(len(ordered))]) - means[label] for label in types}
    run = Run(settings, {label: attached[label] for label in types}, ordered, x,
              {label: attached[label].theta0 + means[label] for label in types}, start, train, dev, reading or Reading())
    best, history = run.fit(None if checkpoint is None else Path(checkpoint), save_every, on_step)
    found = whiten(best, {label: encoded(best[label], x[label]) for label in types},
                   {label: float(np.trace(centred(gram(rows[label])))) for label in types})
    parts, energy = {}, {}
    for label in labels:
        shift, basis, network = found.parts[label]
        parts[label] = part_of(sources.blocks[label], means[label] + shift, basis, network)
        left, total = unexplained(rows[label], parts[label].mean, found.codes, basis)
        energy[label] = 1 - left / total if total > 0 else 0.0
    return Subspace(
        method="autoencoder", backbone=sources.backbone, pairs=pairs, codes=found.codes[[ordered.index(pair) for pair in pairs]],
        parts=parts, spectrum=found.spectrum, energy=energy, space=sources.space, align=sources.align,
        settings=asdict(settings), history=history)


def _start(
    sources: Sources, k: int, settings: Autoencoder
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Means and projections to start from."""
    sizes = {label: rows.size for label, rows in sources.rows.items()}
    if settings.start == "joint_svd":
        space = joint_svd(sources, k)
        return ({label: part.mean for label, part in space.parts.items()},
                {label: {"w1": LINEAR * part.encoder, "b1": np.zeros(k, np.float32), "w2": np.eye(k, dtype=np.float32) / np.float32(LINEAR),
                         "b2": np.zeros(k, np.float32), "up": part.basis} for label, part in space.parts.items()})
    start = {}
    for number, label in enumerate(sizes):
        key = jax.random.fold_in(jax.random.key(settings.seed), number)
        shapes = {"w1": (k, sizes[label]), "w2": (k, k), "up": (k, sizes[label])}
        keys = dict(zip(shapes, jax.random.split(key, 3), strict=True))
        drawn = {name: np.asarray(STD * jax.random.normal(keys[name], shape)) for name, shape in shapes.items()}
        start[label] = {**drawn, "b1": np.zeros(k, np.float32), "b2": np.zeros(k, np.float32)}
    return {label: np.zeros(size, np.float32) for label, size in sizes.items()}, start


def encoded(p: Mapping[str, Any], x: Any) -> np.ndarray:
    """z of one θ by a type's learned projection, in numpy."""
    return np.tanh(x @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"]


@dataclass(frozen=True, eq=False)
class Whitened:
    """Codes [N, k], the spectrum of what they decode to, and by type (shift of the mean [D], basis [k, D], encoder)."""

    codes: np.ndarray
    spectrum: np.ndarray
    parts: Mapping[str, tuple[np.ndarray, np.ndarray, Network]]


def whiten(projections: Mapping[str, Mapping[str, np.ndarray]], codes: Mapping[str, np.ndarray], scales: Mapping[str, float]) -> Whitened:
    """The same subspace in coordinates where the sources' codes (mean over types) have mean 0, variance 1 and are uncorrelated.

    z' = (z − c) A,  U' = A⁻¹ U,  μ' = μ + c U; the rotation left open is the one in which the types' bases, each scaled by its solutions'
    norm (`scales` are squared norms), are orthogonal with falling norms, as joint_svd's are. With k or fewer solutions no variance can be
    1 in every direction: then c = 0 and A only scales and turns, to a mean square of 1.
    """
    mean = np.mean([codes[label] for label in sorted(codes)], axis=0).astype(np.float64)
    n, k = mean.shape
    if n > k:
        centre = mean.mean(axis=0)
        _, s, vh = np.linalg.svd((mean - centre) / np.sqrt(n), full_matrices=False)
        s = np.maximum(s, 1e-6 * max(s[0], 1e-30))  # directions that no code uses keep a finite encoder
        forth, back = vh.T / s, s[:, None] * vh
    else:
        centre, s = np.zeros(k), max(float(np.sqrt(np.mean(mean**2))), 1e-30)
        forth, back = np.eye(k) / s, np.eye(k) * s
    metric = np.zeros((k, k))
    for label in sorted(projections):
        up = projections[label]["up"].astype(np.float64)
        metric += up @ up.T / max(scales[label], 1e-30)
    values, turn = np.linalg.eigh(back @ metric @ back.T)
    values, turn = values[::-1], turn[:, ::-1]
    white = (mean - centre) @ forth @ turn
    signs = np.where(white[np.argmax(np.abs(white), axis=0), np.arange(k)] < 0, -1.0, 1.0)
    forth, back = forth @ (turn * signs), (turn * signs).T @ back
    parts = {}
    for label, p in projections.items():
        shift = centre @ p["up"]
        network = Network(*(np.asarray(a, np.float32) for a in (
            p["w1"], p["b1"] + p["w1"] @ shift, forth.T @ p["w2"], (p["b2"] - centre) @ forth)))
        parts[label] = (shift.astype(np.float32), (back @ p["up"]).astype(np.float32), network)
    return Whitened((white * signs).astype(np.float32), np.sqrt(n * np.maximum(values, 0.0)), parts)
