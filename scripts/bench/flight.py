"""(e) Throughput of training against the number of solutions in flight."""

from typing import Any

import jax
import numpy as np

from deltas import Attached, Backbone, LoRA
from deltas.parallel import flight

from .steps import ALPHA, BATCH, LENGTH, RANK, STEPS, TARGET, random_tokens, training_steps
from .timing import interleaved


def sizes() -> tuple[int, ...]:
    """How many in flight: few on a processor, where more at once gain nothing."""
    return (1, 2, 4) if jax.default_backend() == "cpu" else (1, 2, 4, 8, 16, 32, 64)


def throughput(backbone: Backbone, rounds: int, seed: int = 0, *, wanted: tuple[int, ...] = ()) -> dict[str, Any]:
    """Steps of a solution per second (LoRA, batch 8 × 64 tokens) with more and more solutions trained at once.

    Each number is rounded up to a multiple of the devices; the curve ends where the memory does.
    """
    attached = Attached.of(backbone, LoRA(rank=RANK, alpha=ALPHA), seed=seed)
    batch = random_tokens(backbone, (STEPS, BATCH), LENGTH, TARGET, seed)
    ways, ended = {}, None
    for count in dict.fromkeys(map(flight, wanted or sizes())):
        run = training_steps(attached, [batch], solutions=count)
        try:
            run()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            ended = count
            break
        ways[str(count)] = run
    seconds = interleaved(ways, rounds)
    curve = {name: np.array([int(name) * STEPS / s for s in values]) for name, values in seconds.items()}
    median = {name: float(np.median(values)) for name, values in curve.items()}
    base = next(iter(median.values()), 0.0)
    return {"batch": BATCH, "tokens": LENGTH, "target_tokens": TARGET, "device": jax.devices()[0].device_kind, "rounds": rounds,
            "out_of_memory_at": ended,
            "curve": [{"in_flight": int(name), "steps_per_second": float(f"{median[name]:.4g}"),
                       "range": [float(f"{v:.4g}") for v in (values.min(), values.max())], "against_first": round(median[name] / base, 3)}
                      for name, values in curve.items()]}
