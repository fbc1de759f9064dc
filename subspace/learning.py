"""The training of the autoencoder: pure steps over all types' projections, and the dev loss that chooses among them."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from deltas.evaluation import batch_of
from deltas.files import sha256
from deltas.functional import Attached
from deltas.tasks import Encoded, Reading, schedule
from subspace.looping import Loop, OnStep
from subspace.sources import Pair

if TYPE_CHECKING:
    from subspace.autoencoder import Autoencoder

Projections = Mapping[str, Mapping[str, Any]]
"""By label: w1 [k, D], b1 [k], w2 [k, k], b2 [k] (down) and up [k, D]."""
Loss = Callable[[jax.Array, Any, Mapping[str, jax.Array]], jax.Array]


def simplex(key: jax.Array, kind: str, shape: tuple[int, ...], types: int) -> jax.Array:
    """Weights of the types [*shape, types], ≥ 0, that sum to 1.

    "dirichlet" is uniform on the simplex; "stick_breaking" takes u₁, then u₂ of what is left, …: biased to the first types.
    """
    if kind == "dirichlet":
        drawn = jax.random.exponential(key, (*shape, types))
        return drawn / drawn.sum(-1, keepdims=True)
    u = jnp.concatenate([jax.random.uniform(key, (*shape, types - 1)), jnp.ones((*shape, 1))], axis=-1)
    left = jnp.cumprod(1 - u[..., :-1], axis=-1)
    return u * jnp.concatenate([jnp.ones((*shape, 1)), left], axis=-1)


def down(p: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """z [..., k] = W2 tanh(W1 x + b1) + b2."""
    return jnp.tanh(x @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"]


def objective(
    params: Projections, weights: jax.Array, x: Mapping[str, jax.Array], offsets: Mapping[str, jax.Array],
    batch: Mapping[str, jax.Array], frozen: Mapping[str, Any], losses: Mapping[str, Loss], alpha: float, reconstruction: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch, and what is logged of it.

    Args:
        weights: [G, types] points of the simplex, for G solutions: one for the whole batch, or one an example.
        x: by label, the solutions θ_t [G, D].
        offsets: by label, θ0 + μ [D].
        batch: arrays [B, …] with B = G, or any B where G is 1.
    """
    z = {label: down(params[label], x[label]) for label in params}
    stacked = jnp.stack([z[label] for label in params])
    mix = jnp.einsum("gt,tgk->gk", weights, stacked)
    rebuilding, task = jnp.zeros(()), jnp.zeros(())
    for label, p in params.items():
        both = jnp.concatenate([z[label], mix]) @ p["up"]  # one pass over the largest matrix instead of two
        own, shared = jnp.split(both, 2)
        square = jnp.square(x[label] - own)
        if reconstruction == "norm":
            rebuilding += jnp.mean(jnp.sqrt(jnp.sum(square, axis=-1) + 1e-20))  # a root with a gradient at 0
        else:
            rebuilding += jnp.mean(square)
        theta, loss = offsets[label] + shared, losses[label]
        if len(weights) == 1:
            task += loss(theta[0], frozen[label], batch)
        else:
            task += jnp.mean(_each(loss, theta, frozen[label], batch))
    apart = [jnp.linalg.norm(stacked[a] - stacked[b], axis=-1).mean() for a in range(len(z)) for b in range(a)]
    log = {"reconstruction": rebuilding, "task_loss": task, "distance": sum(apart, jnp.zeros(())) / max(len(apart), 1)}
    return alpha * rebuilding + task, log


def _each(loss: Loss, theta: jax.Array, frozen: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
    """The loss of each example at its own θ [B, D]: the backbone's products still run over the whole batch."""
    return jax.vmap(lambda t, row: loss(t, frozen, {name: a[None] for name, a in row.items()}))(theta, dict(batch))


@functools.lru_cache(maxsize=8)
def _compiled(settings: "Autoencoder", attached: tuple[tuple[str, Attached], ...]) -> tuple[Callable, Callable, Callable]:
    """(optimizer's start, scanned segment of steps, dev loss); the backbone's arrays are arguments of each."""
    losses = {label: one.loss for label, one in attached}
    if settings.optimizer == "adam":
        optimizer = optax.adam(settings.learning_rate)
    else:  # factored whatever k is: the second moments of a k×D matrix are k + D numbers
        optimizer = optax.adafactor(settings.learning_rate, multiply_by_parameter_scale=False, min_dim_size_to_factor=1)
    gradient = jax.grad(objective, has_aux=True)

    @functools.partial(jax.jit, donate_argnums=(0, 1), static_argnames="length")
    def segment(params, opt, first, picks, table, members, solutions, offsets, frozen, length):
        def step(carry: tuple, rows: jax.Array) -> tuple[tuple, dict[str, jax.Array]]:
            params, opt, i = carry
            to_draw, to_mix = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), i))
            drawn = rows[:1] if settings.setting == "single" else rows
            seeds = members["count"][table["task"][drawn]]
            chance = jax.random.uniform(to_draw, drawn.shape)
            own = members["rows"][table["task"][drawn], jnp.minimum((chance * seeds).astype(jnp.int32), seeds - 1)]
            weights = simplex(to_mix, settings.simplex, drawn.shape, len(losses))
            x = {label: solutions[label][own] for label in losses}
            grads, log = gradient(params, weights, x, offsets, _batch(table, rows, length), frozen, losses, settings.weight,
                                  settings.reconstruction)
            updates, opt = optimizer.update(grads, opt, params)
            return (optax.apply_updates(params, updates), opt, i + 1), log

        (params, opt, _), logs = jax.lax.scan(step, (params, opt, first), picks)
        return params, opt, {name: values.mean() for name, values in logs.items()}

    @jax.jit
    def dev_loss(params, x, offsets, frozen, batch):
        z = jnp.stack([down(params[label], x[label]) for label in losses])
        weights = jnp.concatenate([jnp.eye(len(z)), jnp.full((1, len(z)), 1 / len(z))])[: len(z) + (len(z) > 1)]
        total = jnp.zeros(())
        for label, loss in losses.items():
            thetas = offsets[label] + weights @ z @ params[label]["up"]
            total += jnp.mean(jax.lax.map(functools.partial(loss, frozen=frozen[label], batch=batch), thetas))
        return total / len(losses)

    return jax.jit(optimizer.init), segment, dev_loss


def _batch(table: Mapping[str, jax.Array], rows: jax.Array, length: int) -> dict[str, jax.Array]:
    width = table["target_ids"].shape[1]
    return {
        "input_ids": table["input_ids"][rows, :length],
        "attention_mask": (jnp.arange(length) < table["input_lengths"][rows, None]).astype(jnp.int32),
        "target_ids": table["target_ids"][rows],
        "target_mask": (jnp.arange(width) < table["target_lengths"][rows, None]).astype(jnp.int32),
    }


class Run(Loop):
    """One training of the projections, from its start or its last state to the best step."""

    def __init__(
        self, settings: "Autoencoder", attached: Mapping[str, Attached], pairs: Sequence[Pair], solutions: Mapping[str, np.ndarray],
        offsets: Mapping[str, np.ndarray], start: Projections, train: Mapping[str, Encoded], dev: Mapping[str, Encoded], reading: Reading,
    ) -> None:
        self.settings, self.tasks = settings, sorted({task for task, _ in pairs})
        init, self.segment, self.loss = _compiled(settings, tuple(attached.items()))
        self.frozen = {label: one.frozen for label, one in attached.items()}
        self.solutions, self.offsets = _device(solutions), _device(offsets)
        own = [[n for n, (task, _) in enumerate(pairs) if task == name] for name in self.tasks]
        most = max(map(len, own))
        self.members = {"rows": jnp.asarray([o + o[-1:] * (most - len(o)) for o in own]), "count": jnp.asarray([len(o) for o in own])}
        picks, table = _table([train[name] for name in self.tasks], settings.rows_per_task)
        self.plan = [(s.length, picks[s.rows]) for s in schedule(
            _lengths_only(table, picks), reading, steps=settings.steps, batch_size=settings.batch, segment_steps=settings.segment,
            seed=settings.seed)]
        self.table = _device(table)
        self.exams = [exam(dev[name], reading, settings.dev_rows) for name in self.tasks]
        self.first = [o[0] for o in own]
        params = _device({label: dict(p) for label, p in start.items()})
        identity = sha256(json.dumps([asdict(settings), asdict(reading), pairs], default=list),
                          *(np.asarray(a).tobytes() for a in jax.tree.leaves((start, offsets, solutions, table, self.exams))))
        super().__init__(params, init(params), identity, settings.steps, settings.evaluate_every)

    def fit(self, state: Path | None, save_every: float, on_step: OnStep | None) -> tuple[Projections, list[dict[str, float]]]:
        """The projections of the best step in numpy, and the log."""
        return self.go([(len(rows), (length, rows)) for length, rows in self.plan], state, save_every, on_step)

    def advance(self, segment: tuple[int, np.ndarray]) -> Mapping[str, jax.Array]:
        """Steps on rows of one length."""
        length, rows = segment
        self.params, self.opt, log = self.segment(
            self.params, self.opt, jnp.int32(self.step), jnp.asarray(rows), self.table, self.members, self.solutions, self.offsets, self.frozen,
            length=length)
        return log

    def dev_loss(self) -> float:
        """Mean over tasks, types and the fixed mixes."""
        each = [self.loss(self.params, {label: x[n] for label, x in self.solutions.items()}, self.offsets, self.frozen, batch)
                for n, batch in zip(self.first, self.exams, strict=True)]
        return float(np.mean([float(one) for one in each]))


def _device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def _table(tasks: Sequence[Encoded], most: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All tasks' rows in one table, and the rows as they are dealt: every task as often as the largest, at most `most`."""
    kept = [min(len(one), most) for one in tasks]
    starts = np.cumsum([0, *kept])
    dealt = [start + np.resize(np.arange(size), max(kept)) for start, size in zip(starts, kept, strict=False)]
    picks = np.concatenate(dealt).astype(np.int32)
    table: dict[str, np.ndarray] = {"task": np.repeat(np.arange(len(tasks), dtype=np.int32), kept)}
    for name in ("input_lengths", "target_lengths"):
        table[name] = np.concatenate([getattr(one, name)[:size] for one, size in zip(tasks, kept)])
    for name in ("input_ids", "target_ids"):
        width = max(getattr(one, name).shape[1] for one in tasks)
        cut = [getattr(one, name)[:size] for one, size in zip(tasks, kept)]
        table[name] = np.concatenate([np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=one.pad_id)
                                      for ids, one in zip(cut, tasks)])
    return picks, table


def _lengths_only(table: Mapping[str, np.ndarray], picks: np.ndarray) -> Encoded:
    """The dealt rows as far as `schedule` looks at them: their lengths, and the widths (views of one zero, not copies of the text)."""
    def blank(name: str) -> np.ndarray:
        return np.broadcast_to(np.int32(0), (len(picks), table[name].shape[1]))

    return Encoded(blank("input_ids"), table["input_lengths"][picks], blank("target_ids"), table["target_lengths"][picks])


def exam(one: Encoded, reading: Reading, rows: int) -> dict[str, jax.Array]:
    """The first dev rows of a task as one batch."""
    chosen = np.arange(min(rows, len(one)))
    longest = [int(lengths[chosen].max()) for lengths in (one.input_lengths, one.target_lengths)]
    length, width = (reading.bucket(n, limit) for n, limit in zip(longest, (one.input_ids.shape[1], one.target_ids.shape[1])))
    return _device(batch_of(one, chosen, length, width))
