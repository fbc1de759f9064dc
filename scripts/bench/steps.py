"""(a) A training step of one LoRA against transformers + PEFT; (b) the same batches padded to 512 tokens against our buckets."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from deltas import Attached, Backbone, LoRA, Reading, Training
from deltas.evaluation import batch_of, tokens_of
from deltas.parallel import flight
from deltas.tasks import schedule
from deltas.tuning import _compiled, plus

from . import originals
from .timing import compared, interleaved

if TYPE_CHECKING:
    from deltas import Task

BATCH, LENGTH, TARGET, STEPS = 8, 64, 8, 4
RANK, ALPHA, RATE = 8, 16.0, 2e-3
TASKS, ROWS = 8, 512
PADDED, PADDED_TARGET = 512, 64
"""Tokens that the original pads every input and every target to."""


def step_against_peft(backbone: Backbone, rounds: int, threads: int, seed: int = 0) -> dict[str, Any]:
    """A step of LoRA (rank 8 on q and v, AdamW, clipped) at batch 8 × 64 tokens: ours scanned, theirs in a Python loop.

    Both start from the same weights and see the same tokens; `loss_difference` is the largest between their losses of the steps.
    """
    attached = Attached.of(backbone, LoRA(rank=RANK, alpha=ALPHA), seed=seed)
    batch = random_tokens(backbone, (STEPS, BATCH), LENGTH, TARGET, seed)
    ours, theirs = training_steps(attached, [batch]), _peft_steps(attached, batch, threads)
    apart = float(np.max(np.abs(np.concatenate(ours()) - theirs())))  # only the first run of theirs starts from θ0
    found = compared(interleaved({"deltaspace": ours, "transformers + PEFT": theirs}, rounds), "deltaspace", "transformers + PEFT", per=STEPS)
    return {**found, "loss_difference": apart, "batch": BATCH, "tokens": LENGTH, "target_tokens": TARGET, "rank": RANK,
            "steps_a_call": STEPS, "attention": "PyTorch's default in transformers"}


def random_tokens(backbone: Backbone, lead: tuple[int, ...], length: int, target: int, seed: int) -> dict[str, np.ndarray]:
    """A full batch [*lead, length] and [*lead, target] of random words, no padding."""
    rng, high = np.random.default_rng(seed), backbone.config.vocab_size
    batch = {"input_ids": rng.integers(3, high, (*lead, length)), "target_ids": rng.integers(3, high, (*lead, target))}
    masks = {"attention_mask": np.ones_like(batch["input_ids"]), "target_mask": np.ones_like(batch["target_ids"])}
    return {name: np.asarray(value, np.int32) for name, value in {**batch, **masks}.items()}


def training_steps(attached: Attached, batches: Sequence[Mapping[str, np.ndarray]], solutions: int = 1) -> Callable[[], list[np.ndarray]]:
    """What `deltas.train` runs: a call makes the steps of each batch [steps, B, …] for that many solutions; the losses of the first.

    Where there are several devices each takes as many: the seconds are those of one.
    """
    solutions = flight(solutions)
    training = Training(learning_rate=RATE, schedule="constant", warmup=0)
    segment, init = _compiled(attached, training, plus)
    data = [{name: jnp.asarray(np.repeat(a[None], solutions, axis=0)) for name, a in batch.items()} for batch in batches]
    v, constants = jnp.zeros((solutions, attached.layout.size)), jnp.asarray(attached.theta0)
    state = (v, init(v), jnp.full(solutions, -1, jnp.int32))
    keys = jnp.stack([jax.random.key(n) for n in range(solutions)])

    def run() -> list[np.ndarray]:
        now, losses = state, []
        for batch in data:
            *now, loss = segment(*now, jnp.int32(0), batch, {}, keys, attached.frozen, constants)
            losses.append(loss)
        return [np.asarray(loss[0]) for loss in losses]

    return run


def _peft_steps(attached: Attached, batch: Mapping[str, np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    import torch
    from peft import LoraConfig, get_peft_model

    backbone = attached.backbone
    config = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=["q", "v"], lora_dropout=0.0)
    model: Any = get_peft_model(originals.load(backbone, threads), config).eval()  # neither side has dropout
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for name, value in attached.layout.unflatten(jnp.asarray(attached.theta0)).items():
            site, _, matrix = name.rpartition(".")
            path = f"base_model.model.{originals.module_name(backbone, site)}.lora_{matrix.upper()}.default.weight"
            model.get_parameter(path).copy_(originals.tensor(value).T)
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    steps = [{"input_ids": originals.tensor(x).long(), "attention_mask": originals.tensor(np.ones_like(x)), "labels": originals.tensor(y).long()}
             for x, y in zip(batch["input_ids"], batch["target_ids"], strict=True)]

    def run() -> np.ndarray:
        losses = []
        for step in steps:
            loss = model(**step, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses).cpu().numpy()

    return run


def padding_against_buckets(backbone: Backbone, tasks: "Sequence[Task]", rounds: int, seed: int = 0) -> dict[str, Any]:
    """A training step on real rows of several tasks: the batches that our buckets make, and the same rows padded to 512 / 64 tokens."""
    attached, reading = Attached.of(backbone, LoRA(rank=RANK, alpha=ALPHA), seed=seed), Reading(max_input=PADDED, max_target=PADDED_TARGET)
    ways: dict[str, list[dict[str, np.ndarray]]] = {"bucketed": [], "padded": []}
    shapes = {}
    for task in spread(tasks, TASKS):
        encoded = tokens_of(backbone, task.train[:ROWS], task.name, reading)
        (segment,) = schedule(encoded, reading, steps=1, batch_size=BATCH, segment_steps=1, seed=seed)
        width = encoded.target_ids.shape[1]
        ways["bucketed"].append(batch_of(encoded, segment.rows, segment.length, width))
        ways["padded"].append(batch_of(encoded, segment.rows, PADDED, PADDED_TARGET))
        shapes[task.name] = [segment.length, width]
    seconds = interleaved({name: training_steps(attached, batches) for name, batches in ways.items()}, rounds)
    return {**compared(seconds, "bucketed", "padded", per=len(shapes)), "batch": BATCH, "tokens": shapes,
            "padded_tokens": [PADDED, PADDED_TARGET]}


def spread(tasks: "Sequence[Task]", most: int) -> "list[Task]":
    """At most that many tasks, evenly over their sorted names."""
    ordered = sorted(tasks, key=lambda task: task.name)
    chosen = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return [ordered[i] for i in chosen]
