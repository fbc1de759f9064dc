"""A training that is looked at: segments of steps, dev rows between them, the best step kept, a state that survives a kill."""

import abc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deltas.errors import InputError
from subspace.base import write_tensors

OnStep = Callable[[int, Mapping[str, float]], None]
"""Told (steps done, what was logged of them) after every segment."""


class Loop(abc.ABC):
    """A run from its start or its last state to the best step.

    Args:
        params, opt: what is trained, and the optimizer's state for it.
        identity: tells this run from every other: a state of another is not gone on from.
        steps, evaluate_every: in all, and between two looks.
    """

    def __init__(self, params: Any, opt: Any, identity: str, steps: int, evaluate_every: int) -> None:
        self.params, self.opt, self.identity, self.steps, self.evaluate_every = params, opt, identity, steps, evaluate_every
        self.best, self.best_loss, self.step, self.history = params, float("inf"), 0, list[dict[str, float]]()

    @abc.abstractmethod
    def advance(self, segment: Any) -> Mapping[str, Any]:
        """Take the steps of a segment; what is logged of them."""

    @abc.abstractmethod
    def dev_loss(self) -> float:
        """What the best step has least of."""

    def go(self, segments: Sequence[tuple[int, Any]], state: Path | None, save_every: float,
           on_step: OnStep | None) -> tuple[Any, list[dict[str, float]]]:
        """Train through (steps, segment) after (steps, segment); the parameters of the best step in numpy, and the log.

        Raises:
            InputError: a dev loss that is not finite at the start.
        """
        if not self._restore(state):
            self._look({})
            if not np.isfinite(self.best_loss):
                raise InputError(f"expected a finite dev loss at the start, got {self.history[0]['dev_loss']}; check the solutions, or start "
                                 "elsewhere")
        self.params = jax.tree.map(jnp.copy, self.params)  # they are donated, and the best may be the same arrays
        saved, position = time.monotonic(), 0
        for count, segment in segments:
            position += count
            if position <= self.step:
                continue
            log = {name: float(value) for name, value in self.advance(segment).items()}
            self.step = position
            if position % self.evaluate_every < count or position >= self.steps:
                log = self._look(log)
            if on_step is not None:
                on_step(position, log)
            if not all(map(np.isfinite, log.values())):
                break  # it will not come back: the best step stands, and the log's last entry says why
            if state is not None and time.monotonic() - saved >= save_every:
                self._save(state)
                saved = time.monotonic()
        if state is not None:
            self._save(state)
        return jax.tree.map(np.asarray, self.best), self.history

    def _look(self, log: dict[str, float]) -> dict[str, float]:
        log = {**log, "dev_loss": self.dev_loss()}
        self.history.append({"step": self.step, **log})
        if log["dev_loss"] < self.best_loss:
            self.best_loss, self.best = log["dev_loss"], jax.tree.map(jnp.copy, self.params)
        return log

    def _save(self, path: Path) -> None:
        leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves((self.params, self.opt, self.best)))}
        about = {"identity": self.identity, "step": self.step, "best_loss": self.best_loss, "history": self.history}
        write_tensors(path, leaves, about)

    def _restore(self, path: Path | None) -> bool:
        """Go on from the state, where there is a whole one of this very run."""
        from safetensors import SafetensorError, safe_open

        if path is None or not path.is_file():
            return False
        try:
            with safe_open(path, framework="numpy") as file:
                about = {name: json.loads(value) for name, value in file.metadata().items()}
                if about["identity"] != self.identity:
                    return False
                tree = (self.params, self.opt, self.best)
                leaves = [jnp.asarray(file.get_tensor(f"leaf{i}")) for i in range(len(jax.tree.leaves(tree)))]
        except (SafetensorError, KeyError, TypeError, ValueError):  # not ours to mend: the run starts anew
            return False
        self.params, self.opt, self.best = jax.tree.unflatten(jax.tree.structure(tree), leaves)
        self.step, self.best_loss, self.history = about["step"], about["best_loss"], about["history"]
        return True
