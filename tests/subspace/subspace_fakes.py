"""Fake banks: planted structure in arrays, with the interface of the real bank and nothing on the disk."""

import functools
from dataclasses import dataclass, field
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from deltas.errors import InputError
from deltas.layout import Layout
from deltas.tasks import Encoded
from deltas.types import Adapter, LoRA, Prefix

CONFIGS = {"adapter": Adapter(), "lora": LoRA(), "prefix": Prefix()}
SIZES = {"adapter": 90, "lora": 60, "prefix": 41}


@dataclass(eq=False)
class FakeBank:
    """What the subspaces ask of a bank."""

    x: dict[str, dict[tuple[str, int], np.ndarray]]
    starts: dict[str, np.ndarray]
    fingerprint: str = "b0"
    path: str = "fake"
    marks: dict[str, str] = field(default_factory=dict)

    def labels(self):
        return sorted(self.x)

    def start(self, label):
        if label not in self.x:
            raise InputError(f"expected a delta type of the bank, got {label!r}; choose one")
        return SimpleNamespace(config=CONFIGS[label], layout=Layout(("x",), ((SIZES[label],),)), theta0=self.starts[label],
                               fingerprint=self.theta0_fingerprint(label))

    def theta0(self, label):
        return self.start(label).theta0

    def theta0_fingerprint(self, label):
        return self.marks.get(label, f"start of {label}")

    def pairs(self, labels=None):
        return sorted(set.intersection(*(set(self.x[self.start(label) and label]) for label in labels or self.labels())))

    def rows(self, label, pairs):
        return [self.x[label][pair] for pair in pairs]

    def file(self, label, task, seed):
        return f"nowhere/{label}/{task}.{seed}"

    def failed(self):
        return []


def planted(labels=("adapter", "lora", "prefix"), tasks=8, seeds=2, rank=4, noise=0.2, seed=0) -> FakeBank:
    """Solutions that share `rank` factors a task across types, plus noise of their own."""
    rng = np.random.default_rng(seed)
    pairs = [(f"task{t}", s) for t in range(tasks) for s in range(seeds)]
    factors = {f"task{t}": rng.standard_normal(rank) * np.linspace(2, 1, rank) for t in range(tasks)}
    x, starts = {}, {}
    for label in sorted(SIZES):
        size = SIZES[label]
        mix, mean = rng.standard_normal((rank, size)), rng.standard_normal(size)
        starts[label] = rng.standard_normal(size).astype(np.float32)
        x[label] = {p: (mean + factors[p[0]] @ mix + noise * rng.standard_normal(size)).astype(np.float32) for p in pairs}
    return FakeBank({label: x[label] for label in labels}, starts)


class FakeAttached:
    """A linear model in θ: the loss of a batch is how far θ's products with the rows' features are from their targets."""

    def __init__(self, label, theta0):
        self.label, self.theta0 = label, theta0
        self.layout = SimpleNamespace(size=len(self.theta0))
        rng = np.random.default_rng(len(label))
        self.frozen = {"table": jnp.asarray(rng.standard_normal((50, len(self.theta0))), jnp.float32) / 8}

    def loss(self, theta, frozen, batch, key=None):
        seen = jnp.sum(frozen["table"][batch["input_ids"]] * batch["attention_mask"][..., None], axis=1)
        wanted = jnp.sum(batch["target_ids"] * batch["target_mask"], axis=1) / 50.0
        return jnp.mean(jnp.square(seen @ theta - wanted))


@functools.cache
def _fake(label: str, mark: bytes) -> FakeAttached:
    return FakeAttached(label, np.frombuffer(mark, np.float32))


def attach(bank, labels=None):
    """By label; the same object for the same θ0, so that nothing compiles twice."""
    return {label: _fake(label, bank.theta0(label).tobytes()) for label in labels or bank.labels()}


def encoded(rows=24, seed=0) -> Encoded:
    rng = np.random.default_rng(seed)
    return Encoded(rng.integers(2, 50, (rows, 12)).astype(np.int32), rng.integers(3, 12, rows).astype(np.int32),
                   rng.integers(2, 50, (rows, 4)).astype(np.int32), rng.integers(1, 4, rows).astype(np.int32))


def texts(bank, rows=24):
    """(train, dev) token ids by task."""
    names = sorted({task for task, _ in bank.pairs()})
    return tuple({name: encoded(rows - 3 * i % 7, seed=100 * split + i) for i, name in enumerate(names)} for split in (0, 1))
