"""Scores of many deltas at once: tokens on the device, answers by generation or by ranking the labels, metrics on the host."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from deltas.backbones.loading import Backbone
from deltas.functional import Attached, Batch, Theta
from deltas.parallel import flight, forget_programs, over_solutions
from deltas.tasks import METRICS, Encoded, Example, Reading, Task, encode, evaluation_batches
from deltas.verbalizer import can_answer, encode_labelled


@dataclass(frozen=True)
class Score:
    """What one delta reaches on one exam: the task's metric, the mean cross-entropy of a target token, the answers given."""

    score: float
    loss: float
    predictions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Exam:
    """The rows of one split of a task, as tokens."""

    task: Task
    examples: tuple[Example, ...]
    encoded: Encoded
    reading: Reading
    labels: Encoded | None
    """The label words as targets, where answers are ranked."""

    @classmethod
    def of(cls, backbone: Backbone, task: Task, split: str, reading: Reading, rows: int | None = None) -> Self:
        """The first `rows` rows (None: all) of a split.

        Raises:
            InputError: the backbone cannot answer the task so (`can_answer`).
        """
        can_answer(backbone, [task], reading)
        examples = task.split(split)[:rows]
        labels = None
        if backbone.kind == "encoder":
            encoded = encode_labelled(backbone, task, examples, reading)
            number = np.arange(len(task.labels or ()), dtype=np.int32)[:, None]
            one = np.ones(len(number), np.int32)
            return cls(task, examples, encoded, reading, Encoded(number, one, number, one))
        if reading.decode != "generate" and task.labels:
            labels = tokens_of(backbone, [Example("", (label,)) for label in task.labels], task.name, reading)
        return cls(task, examples, tokens_of(backbone, examples, task.name, reading), reading, labels)

    def score(self, backbone: Backbone, answers: np.ndarray, losses: np.ndarray) -> Score:
        """The score of answers (token ids [R, T], or label numbers [R]) and per-row (loss sum, tokens) [R, 2]."""
        if self.labels is not None and self.task.labels is not None:
            predictions = tuple(self.task.labels[int(i)] for i in answers)
        else:
            predictions = tuple(text(backbone, row) for row in answers)
        metric = METRICS[self.task.metric](predictions, [e.answers for e in self.examples])
        return Score(float(metric), float(losses[:, 0].sum() / max(losses[:, 1].sum(), 1)), predictions)


def tokens_of(backbone: Backbone, examples: Sequence[Example], name: str, reading: Reading) -> Encoded:
    """The examples as padded token ids under the backbone's tokenizer."""
    config = backbone.config
    return encode(examples, name, backbone.tokenizer, reading, pad_id=config.pad_token_id, eos_id=config.eos_token_id,
                  before=backbone.before, after=backbone.after,
                  opening=backbone.before if backbone.kind == "encoder-decoder" else ())  # BART writes <s> before a text, as it reads it


def text(backbone: Backbone, ids: np.ndarray) -> str:
    """The words of one generated row: up to its end, without special tokens."""
    config, kept = backbone.config, [int(i) for i in ids]
    if config.eos_token_id in kept:
        kept = kept[: kept.index(config.eos_token_id)]
    return backbone.tokenizer.decode([i for i in kept if i != config.pad_token_id], skip_special_tokens=True).strip()


def batch_of(encoded: Encoded, rows: np.ndarray, length: int, width: int, valid: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The rows as a batch: inputs cut or padded to `length`, targets to `width`; `target_mask` is 0 on rows that are not valid.

    `rows` may have leading axes ([steps, B]); they are kept.
    """
    batch = {}
    for name, ids, lengths, size, ours in (("input_ids", encoded.input_ids, encoded.input_lengths, length, "attention_mask"),
                                           ("target_ids", encoded.target_ids, encoded.target_lengths, width, "target_mask")):
        cut = ids[rows][..., :size]
        batch[name] = np.pad(cut, [(0, 0)] * (cut.ndim - 1) + [(0, size - cut.shape[-1])], constant_values=encoded.pad_id)
        batch[ours] = (np.arange(size) < lengths[rows][..., None]).astype(np.int32)
    if valid is not None:
        batch["target_mask"] = batch["target_mask"] * valid[..., None].astype(np.int32)
    return batch


def evaluate_each(attached: Attached, thetas: Any, exams: Sequence[Exam], *, in_flight: int | None = None, rows_at_once: int = 64,
                  on_progress: Callable[[int], None] | None = None) -> list[Score]:
    """The score of each delta θ_m on its own exam; θ float [M, D], M exams.

    `in_flight` deltas run at once; each step of a flight reads at most `rows_at_once` rows of every exam.
    """
    size, scores = flight(in_flight), {}
    for ranked in (True, False):  # one program writes answers, another ranks labels
        chosen = [i for i, exam in enumerate(exams) if (exam.labels is not None) == ranked]
        count = -(-len(chosen) // size)  # flights, of nearly equal size
        each = flight(-(-len(chosen) // max(count, 1)))
        for first in range(0, len(chosen), each):
            forget_programs()
            wanted = chosen[first : first + each]
            part = wanted + wanted[-1:] * (each - len(wanted))  # the last flight is filled with copies
            found = _one_flight(attached, jnp.asarray(thetas)[jnp.asarray(part)], [exams[i] for i in part], rows_at_once)
            scores |= dict(zip(wanted, found, strict=False))
            if on_progress is not None:
                on_progress(len(wanted))
    return [scores[i] for i in range(len(exams))]


def evaluate(attached: Attached, thetas: Any, task: Task, split: str = "test", *, reading: Reading | None = None,
             rows: int | None = None, in_flight: int | None = None) -> list[Score]:
    """The score of each of the deltas θ float [M, D] on one split of one task."""
    exam = Exam.of(attached.backbone, task, split, reading or Reading(), rows)
    return evaluate_each(attached, thetas, [exam] * len(thetas), in_flight=in_flight)


def _one_flight(attached: Attached, thetas: jax.Array, exams: Sequence[Exam], rows_at_once: int) -> list[Score]:
    rank, width = exams[0].labels is not None, max(e.encoded.target_ids.shape[1] for e in exams)
    plans = plans_of(exams, rows_at_once)
    answers = [np.zeros(len(e.examples) if rank else (len(e.examples), width), np.int32) for e in exams]
    losses = [np.zeros((len(e.examples), 2)) for e in exams]
    labels, tables = stack_labels(exams) if rank else (), stack_tables(exams)
    assess = _assessing(attached, None if rank else width)
    for turn in range(max(map(len, plans))):
        steps = [plan[min(turn, len(plan) - 1)] for plan in plans]
        length = max(step[0] for step in steps)
        batches = [batch_of(e.encoded, rows, length, width, valid) for e, (_, rows, valid) in zip(exams, steps, strict=True)]
        batch = {name: jnp.asarray(np.stack([b[name] for b in batches])) for name in batches[0]} | tables
        out, sums = map(np.asarray, assess(thetas, attached.frozen, batch, *labels))
        for m, (plan, (_, rows, valid)) in enumerate(zip(plans, steps, strict=True)):
            if turn < len(plan):
                answers[m][rows[valid]], losses[m][rows[valid]] = out[m][valid], sums[m][valid]
    return [e.score(attached.backbone, a, s) for e, a, s in zip(exams, answers, losses, strict=True)]


def plans_of(exams: Sequence[Exam], rows_at_once: int) -> list[list[tuple[int, np.ndarray, np.ndarray]]]:
    """The batches of each exam as (input length, rows, valid): of `rows_at_once` rows, or of fewer where all exams are small."""
    at_once = min(rows_at_once, max(8, 2 ** (max(len(e.examples) for e in exams) - 1).bit_length()))
    return [evaluation_batches(e.encoded, e.reading, at_once) for e in exams]


def stack_tables(exams: Sequence[Exam]) -> dict[str, jax.Array]:
    """What the exams' batches carry of their labels, [M, …], filled up with zeros to the largest."""
    stacked = {}
    for name in exams[0].encoded.tables:
        arrays = [np.asarray(e.encoded.tables[name]) for e in exams]
        shape = np.max([a.shape for a in arrays], axis=0)
        stacked[name] = jnp.asarray(np.stack([np.pad(a, [(0, n - old) for n, old in zip(shape, a.shape, strict=True)]) for a in arrays]))
    return stacked


def stack_labels(exams: Sequence[Exam]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Label tokens, their mask and which labels exist, padded to the largest exam: [M, L, T], [M, L, T], [M, L]."""
    sets = [e.labels for e in exams if e.labels is not None]
    count, width = max(len(s.target_ids) for s in sets), max(s.target_ids.shape[1] for s in sets)
    parts = [batch_of(s, np.minimum(np.arange(count), len(s.target_ids) - 1), 1, width) for s in sets]
    exists = np.stack([np.arange(count) < len(s.target_ids) for s in sets])
    return jnp.stack([p["target_ids"] for p in parts]), jnp.stack([p["target_mask"] for p in parts]), jnp.asarray(exists)


def assessment(attached: Attached, width: int | None) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(θ, frozen, batch) ↦ the answers to one batch [B, T] and (loss sum, tokens) of its rows [B, 2], as `Exam.score` takes them.

    `width` is T of generated answers; without it the labels are ranked, answers are numbers of labels [B], and three more arguments are label
    tokens [L, T], their mask, and which labels exist [L].
    """

    def sums(losses: jax.Array, batch: Batch) -> jax.Array:
        return jnp.stack([losses.sum(-1), batch["target_mask"].sum(-1).astype(losses.dtype)], axis=-1)

    def generating(theta: Theta, frozen: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        answers, losses = attached.generated(theta, frozen, batch, width or 0)
        return answers, sums(losses, batch)

    def ranking(theta: Theta, frozen: Any, batch: Batch, labels: jax.Array, mask: jax.Array, exists: jax.Array):
        likelihoods, losses = attached.ranked(theta, frozen, batch, labels, mask)
        return jnp.argmax(jnp.where(exists, likelihoods, -jnp.inf), axis=-1).astype(jnp.int32), sums(losses, batch)

    return ranking if width is None else generating


@functools.lru_cache(maxsize=64)
def _assessing(attached: Attached, width: int | None) -> Callable[..., Any]:
    return over_solutions(assessment(attached, width), (True, False, True) + (True,) * (3 if width is None else 0))
