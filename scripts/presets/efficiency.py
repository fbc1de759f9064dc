"""What a training step costs: memory and time of each delta type and of full fine-tuning, against the batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..options import Answering

if TYPE_CHECKING:
    import jax

    import deltas
    from deltas.types import DeltaType

FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Compile and time one optimizer step of each type at each batch size, all types in turn."""

    out: Path
    """Where the table, the figure and the report are written"""
    backbone: str = "tiny"
    """A Hugging Face folder, a hub id, or "tiny" """
    tasks: str = "gym"
    """A folder of tasks, or "gym" """
    name: str = "middle.last.kind"
    """The task whose rows fill the batches"""
    decode: Answering = "rank"
    """"rank" of encoders"""
    types: tuple[str, ...] = ("lora:rank=8", "adapter:bottleneck=24", "prefix:length=20", "bitfit")
    """Delta types with settings; full fine-tuning is measured beside them"""
    exclude: tuple[str, ...] = ()
    """Patterns of sites that full fine-tuning leaves as they are"""
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    """Rows an update"""
    max_input: int = 32
    """Tokens of every input"""
    max_target: int = 8
    """Tokens of every answer, at most"""
    rounds: int = 7
    """Timed calls of each type; at least 5"""
    threads: int | None = None
    """Processors and threads that the whole process is kept on; as it was started where not given"""

    def run(self) -> None:
        """Check everything, measure, draw, write."""
        from ..bench.timing import machine, pin_threads
        from ..options import use_devices

        backbone, task, types = self.checked()
        if self.threads is not None:
            pin_threads(self.threads)
        use_devices(None)
        from ..experiment import Experiment
        from .efficiency_page import write

        made = Experiment(self.out, "efficiency", self)
        rows: list[dict[str, Any]] = []
        with made.bars.stage("measure", len(self.batch_sizes)) as bar:
            for size in self.batch_sizes:
                key = [backbone.fingerprint, task.fingerprint, [config.to_json() for config in types], size, self.max_input, self.max_target,
                       self.rounds, self.threads, machine()]
                rows += made.kept(f"batch.{size}", key, lambda size=size: self.measured(backbone, task, types, size))
                bar(1, f"batch of {size}")
        write(made, rows, machine())

    def checked(self) -> tuple[deltas.Backbone, deltas.Task, list[DeltaType]]:
        """The backbone, the task and the types.

        Raises:
            InputError: any setting that is out of range.
        """
        import deltas
        from deltas.verbalizer import can_answer

        from ..options import load_tasks, parse_type
        from ..trials import counted

        counted({"batch_sizes": min(self.batch_sizes, default=0), "types": len(self.types)} | (
            {} if self.threads is None else {"threads": self.threads}))
        if self.rounds < 5:
            raise deltas.InputError(f"expected at least 5 rounds, got {self.rounds}; a median of fewer says little")
        types = [parse_type(text) for text in self.types]
        labels = [config.label for config in types] + [FULL]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise deltas.InputError(f"expected every label once, full for full fine-tuning among them, got {min(twice)!r} twice; rename one")
        task = load_tasks(self.tasks, (self.name,))[0]
        backbone = deltas.load_backbone(self.backbone)
        can_answer(backbone, [task], self.reading())
        return backbone, task, [*types, deltas.Full(exclude=self.exclude)]

    def reading(self) -> deltas.Reading:
        """How rows are read: all padded to one length."""
        import deltas

        return deltas.Reading(max_input=self.max_input, max_target=self.max_target, decode=self.decode, buckets=(self.max_input,))

    def measured(self, backbone: deltas.Backbone, task: deltas.Task, types: Sequence[DeltaType], size: int) -> list[dict[str, Any]]:
        """One row a type at one batch size: bytes, median seconds of a step and their range."""
        import deltas

        from ..bench.timing import interleaved

        batch = full_batch(backbone, task, self.reading(), size)
        ways, plans, sizes = {}, {}, {}
        for config in types:
            attached = deltas.Attached.of(backbone, config, text=[example.input for example in task.train[:2]])
            ways[config.label], plans[config.label] = step_of(attached, batch)
            sizes[config.label] = attached.layout.size
        seconds = interleaved(ways, self.rounds)
        return [{"type": label, "batch_size": size, "parameters": sizes[label], **plans[label], "seconds": median(taken),
                 "fastest": min(taken), "slowest": max(taken), "ratios": [f / s for f, s in zip(seconds[FULL], taken, strict=True)]}
                for label, taken in seconds.items()]


def full_batch(backbone: deltas.Backbone, task: deltas.Task, reading: deltas.Reading, size: int) -> dict[str, jax.Array]:
    """`size` training rows as one batch, the rows over again where there are fewer."""
    import jax.numpy as jnp
    import numpy as np

    from deltas.evaluation import Exam, batch_of

    encoded = Exam.of(backbone, task, "train", reading, size).encoded
    batch = batch_of(encoded, np.arange(size) % len(encoded), reading.max_input, encoded.target_ids.shape[1])
    return {name: jnp.asarray(value) for name, value in {**batch, **encoded.tables}.items()}


def step_of(attached: deltas.Attached, batch: dict[str, jax.Array]) -> tuple[Callable[[], float], dict[str, int]]:
    """A call that makes one AdamW step and returns the loss before it, and the bytes that XLA plans for it.

    The delta and the optimizer's state are donated: a step writes them where they were. `state` is theirs, `frozen` the backbone's,
    `temporaries` what the step needs beside them: activations and gradients.
    """
    import jax
    import jax.numpy as jnp
    import optax

    import deltas

    optimizer = deltas.Training(schedule="constant", warmup=0).transform(attached.label)

    def step(v: jax.Array, state: Any, frozen: Any, start: jax.Array, batch: Any) -> tuple[jax.Array, Any, jax.Array]:
        loss, gradient = jax.value_and_grad(lambda v: attached.loss(start + v, frozen, batch))(v)
        updates, state = optimizer.update(gradient, state, v)
        return jnp.asarray(optax.apply_updates(v, updates)), state, loss

    start = jnp.asarray(attached.theta0)
    now = [jnp.zeros_like(start), optimizer.init(jnp.zeros_like(start))]
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*now, attached.frozen, start, batch).compile()
    plan: Any = compiled.memory_analysis()

    def run() -> float:
        now[0], now[1], loss = compiled(*now, attached.frozen, start, batch)
        return float(loss)

    frozen = sum(leaf.nbytes for leaf in jax.tree.leaves(attached.frozen))
    state = start.nbytes + sum(leaf.nbytes for leaf in jax.tree.leaves(now))
    return run, {"frozen": frozen, "state": state, "temporaries": int(plan.temp_size_in_bytes)}
