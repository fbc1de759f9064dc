"""Sources of random LoRA solutions, each in a gauge of its own where that is wanted."""

import numpy as np

from deltas.layout import Layout
from deltas.types import LoRA
from subspace.rows import Stored
from subspace.sources import Block, Sources


def loras(gauges=False, tasks=7, sites=("encoder.0.q", "encoder.0.v"), rank=2, seed=0) -> Sources:
    """LoRA solutions of random factors; with `gauges` the same changes of weights, each in a gauge of its own."""
    rng, turns = np.random.default_rng(seed), np.random.default_rng(9)
    layout = Layout(tuple(f"{site}.{x}" for site in sites for x in "ab"), tuple(shape for _ in sites for shape in ((6, rank), (rank, 5))))
    theta0, rows = rng.standard_normal(layout.size).astype(np.float32), []
    for _ in range(tasks):
        parts = []
        for _ in sites:
            a, b, g = rng.standard_normal((6, rank)), rng.standard_normal((rank, 5)), turns.standard_normal((rank, rank))
            parts += [a @ np.linalg.inv(g), g @ b] if gauges else [a, b]
        rows.append((np.concatenate([part.ravel() for part in parts]) - theta0).astype(np.float32))
    block = Block(config=LoRA(rank=rank, alpha=3.0), layout=layout, theta0=theta0, fingerprint="f", rows=Stored(rows), members=np.arange(tasks))
    return Sources(name="made", backbone="b", pairs=tuple((f"t{n}", 0) for n in range(tasks)), blocks={"lora": block})
