"""LoRA solutions as arrays: of different ranks, at different modules, in any gauge."""

import numpy as np

from deltas.checkpoints.unplaced import lora_at
from deltas.layout import Layout
from subspace.product import product_block, product_rows
from subspace.rows import Stored
from subspace.sources import Block, Sources

SIZES = {"layer.2.q": (11, 7), "layer.10.q": (9, 9), "layer.2.out": (6, 13)}


def solutions(n=9, seed=0, ranks=(1, 2, 3, 4), sizes=SIZES, shared=0.5):
    """Module → A, B; a share of each is common to all, so that there is something to find. Every third lacks a module."""
    rng, found = np.random.default_rng(seed), []
    widest = {module: (rng.standard_normal((n_in, 8)), rng.standard_normal((8, n_out))) for module, (n_in, n_out) in sizes.items()}
    for i in range(n):
        r, own = ranks[i % len(ranks)], {}
        for j, (module, (n_in, n_out)) in enumerate(sizes.items()):
            if len(ranks) > 1 and i % 3 == 1 and j == i % len(sizes):
                continue
            a, b = rng.standard_normal((n_in, r)), rng.standard_normal((r, n_out))
            own[module] = (shared * widest[module][0][:, :r] + a, shared * widest[module][1][:r] + b)
        found.append(own)
    return found


def regauged(found, seed=1, dtype=np.float64):
    """A → A G⁻¹, B → G B for another G at every module of every solution."""
    rng = np.random.default_rng(seed)

    def turn(a, b):
        g = rng.standard_normal((a.shape[1], a.shape[1])) + 2 * np.eye(a.shape[1])
        return (a @ np.linalg.inv(g)).astype(dtype), (g @ b).astype(dtype)

    return [{module: turn(*pair) for module, pair in own.items()} for own in found]


def dense(found, sizes=SIZES):
    """Every change of weights, written out: [N, Σ in·out]."""
    return np.stack([np.concatenate([(own[m][0] @ own[m][1]).ravel() if m in own else np.zeros(n_in * n_out)
                                     for m, (n_in, n_out) in sizes.items()]) for own in found])


def pairs(n):
    return tuple((f"task{i}", 0) for i in range(n))


def product_sources(found, **options) -> Sources:
    rows = product_rows(found, **options)
    return Sources(name="fakes", backbone="", pairs=pairs(len(found)), blocks={"lora": product_block("lora", rows, np.arange(len(found)))},
                   space="product")


def factor_sources(found, theta0=None) -> Sources:
    """Solutions of one rank at the same modules, as a bank has them."""
    config = lora_at({module: a.shape[1] for module, (a, _) in found[0].items()})
    names = [name for module in found[0] for name in (f"{module}.a", f"{module}.b")]
    layout = Layout(tuple(names), tuple(x.shape for pair in found[0].values() for x in pair))
    rows = [np.concatenate([x.ravel() for pair in own.values() for x in pair]).astype(np.float32) for own in found]
    theta0 = np.zeros(layout.size, np.float32) if theta0 is None else theta0
    block = Block(config=config, layout=layout, theta0=theta0, fingerprint="start", rows=Stored([row - theta0 for row in rows]),
                  members=np.arange(len(found)))
    return Sources(name="fakes", backbone="b0", pairs=pairs(len(found)), blocks={"lora": block})


def changes(part, theta):
    """Module → ΔW of a θ of a product space."""
    values = part.layout.unflatten(np.asarray(theta, np.float64))
    return {name[:-2]: np.asarray(value, np.float64) @ np.asarray(values[f"{name[:-2]}.b"], np.float64)
            for name, value in values.items() if name.endswith(".a")}
