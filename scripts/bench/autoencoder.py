"""(d) One step of the multi-task autoencoder against the same step written plainly in PyTorch.

Plainly means as the original has it: projections and solutions as matrices, and a Python loop over the batch's examples and the types,
each running transformers' T5 with that example's decoded delta; one backward pass at the end. Ours runs the examples of a type together.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deltas import Adapter, Attached, Backbone, LoRA, Prefix
from subspace.autoencoder import STD, Autoencoder
from subspace.learning import _compiled, objective

from . import originals
from .steps import random_tokens
from .timing import compared, interleaved

TYPES = (Adapter(bottleneck=12), LoRA(rank=8), Prefix(length=20))
K, BATCH, LENGTH, TARGET, TASKS = 100, 16, 64, 8, 60
"""k, batch and number of tasks are those of the paper's multi-task setting; tokens as in the other steps."""


def step_against_pytorch(
    backbone: Backbone, rounds: int, threads: int, seed: int = 0, *, k: int = K, batch: int = BATCH, tasks: int = TASKS
) -> dict[str, Any]:
    """A step (norm reconstruction, random mixes an example, Adafactor; buffers donated) on random tokens and solutions.

    `loss_difference` is the largest relative one between the two sides' task loss and reconstruction at the start, at the same mixes.
    """
    settings = Autoencoder(setting="multi", start="random", batch_size=batch, steps=1, seed=seed)
    attached = {kind.label: Attached.of(backbone, kind, seed=seed) for kind in TYPES}
    rng = np.random.default_rng(seed)
    normal = partial(_normal, rng)
    start = {label: {"w1": normal(k, one.layout.size), "b1": np.zeros(k, np.float32), "w2": normal(k, k), "b2": np.zeros(k, np.float32),
                     "up": normal(k, one.layout.size)} for label, one in attached.items()}
    solutions = {label: normal(tasks, one.layout.size) for label, one in attached.items()}
    tokens, picked = random_tokens(backbone, (batch,), LENGTH, TARGET, seed), rng.integers(0, tasks, batch)
    mixes = rng.dirichlet(np.ones(len(TYPES)), batch).astype(np.float32)
    plain = Plain(settings, attached, start, solutions, tokens, picked, threads)
    expected = _loss(settings, attached, start, {label: x[picked] for label, x in solutions.items()}, tokens, mixes)
    found = [float(value.detach()) for value in plain.loss(originals.tensor(mixes))]
    apart = float(np.max(np.abs(np.divide(found, expected) - 1)))
    ways = {"deltaspace": _our_step(settings, attached, start, solutions, tokens, picked), "PyTorch": plain.step}
    found = compared(interleaved(ways, rounds), "deltaspace", "PyTorch")
    return {**found, "loss_difference": apart, "k": k, "batch": batch, "tokens": LENGTH, "target_tokens": TARGET, "tasks": tasks,
            "sizes": {label: one.layout.size for label, one in attached.items()}}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.float32(STD) * rng.standard_normal(shape, dtype=np.float32)


def _loss(settings: Autoencoder, attached: Mapping[str, Attached], start: Any, x: Any, tokens: Any, mixes: np.ndarray) -> list[float]:
    """Task loss and reconstruction of `subspace.learning`, once."""
    losses = {label: one.loss for label, one in attached.items()}

    def logged(params: Any, x: Any, offsets: Any, frozen: Any) -> dict[str, jax.Array]:
        return objective(params, jnp.asarray(mixes), x, offsets, tokens, frozen, losses, settings.weight, settings.reconstruction)[1]

    log = jax.jit(logged)(start, x, {label: one.theta0 for label, one in attached.items()},
                          {label: one.frozen for label, one in attached.items()})
    return [float(log["task_loss"]), float(log["reconstruction"])]


def _our_step(
    settings: Autoencoder, attached: Mapping[str, Attached], start: Any, solutions: Any, tokens: Mapping[str, np.ndarray], picked: np.ndarray
) -> Callable[[], None]:
    init, segment, _ = _compiled(settings, tuple(attached.items()))
    tasks, batch = len(next(iter(solutions.values()))), len(picked)
    members = {"rows": jnp.arange(tasks)[:, None], "count": jnp.ones(tasks, jnp.int32)}
    table = {"task": picked.astype(np.int32), "input_ids": tokens["input_ids"], "target_ids": tokens["target_ids"],
             "input_lengths": np.full(batch, LENGTH, np.int32), "target_lengths": np.full(batch, TARGET, np.int32)}
    table, solutions, params = (jax.tree.map(jnp.asarray, tree) for tree in (table, solutions, start))
    offsets = {label: jnp.asarray(one.theta0) for label, one in attached.items()}
    frozen = {label: one.frozen for label, one in attached.items()}
    picks, state = jnp.arange(batch, dtype=jnp.int32)[None], [params, init(params)]

    def run() -> None:
        *state[:], log = segment(*state, jnp.int32(0), picks, table, members, solutions, offsets, frozen, length=LENGTH)
        jax.block_until_ready((state, log))

    return run


class Plain:
    """The same step in PyTorch: a model a type, which all hold the same frozen weights."""

    def __init__(
        self, settings: Autoencoder, attached: Mapping[str, Attached], start: Mapping[str, Mapping[str, np.ndarray]],
        solutions: Mapping[str, np.ndarray], tokens: Mapping[str, np.ndarray], picked: np.ndarray, threads: int,
    ) -> None:
        import torch
        from transformers.optimization import Adafactor

        self.alpha = settings.weight
        self.models, self.set_theta = {}, {}
        for label, one in attached.items():
            self.models[label] = originals.load(one.backbone, threads)
            self.set_theta[label] = originals.put_on(self.models[label], one)
        self.params = {label: {name: torch.nn.Parameter(originals.tensor(value)) for name, value in p.items()} for label, p in start.items()}
        self.offsets = {label: originals.tensor(one.theta0) for label, one in attached.items()}
        self.solutions = {label: originals.tensor(x) for label, x in solutions.items()}
        self.picked = originals.tensor(picked)
        self.input_ids, self.labels = (originals.tensor(tokens[name]).long() for name in ("input_ids", "target_ids"))
        everything = [p for one in self.params.values() for p in one.values()]
        self.optimizer = Adafactor(everything, lr=settings.learning_rate, scale_parameter=False, relative_step=False, warmup_init=False)

    def loss(self, mixes: Any) -> tuple[Any, Any]:
        """Task loss and reconstruction at the points [B, types] of the simplex."""
        import torch

        x = {label: rows[self.picked] for label, rows in self.solutions.items()}
        z = {label: torch.tanh(x[label] @ p["w1"].T + p["b1"]) @ p["w2"].T + p["b2"] for label, p in self.params.items()}
        mixed = torch.einsum("bt,tbk->bk", mixes, torch.stack(list(z.values())))
        task, rebuilding = torch.zeros((2,), device=mixed.device)
        for label, p in self.params.items():
            rebuilding = rebuilding + (x[label] - z[label] @ p["up"]).norm(dim=1).mean()
            thetas = self.offsets[label] + mixed @ p["up"]
            for b, theta in enumerate(thetas):
                self.set_theta[label](theta)
                found = self.models[label](input_ids=self.input_ids[b : b + 1], labels=self.labels[b : b + 1], use_cache=False)
                task = task + found.loss / len(thetas)
        return task, rebuilding

    def step(self) -> None:
        """Draw mixes, and update."""
        import torch

        drawn = torch.distributions.Dirichlet(torch.ones(len(self.params), device=self.picked.device)).sample((len(self.picked),))
        task, rebuilding = self.loss(drawn)
        (task + self.alpha * rebuilding).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        originals.wait()
