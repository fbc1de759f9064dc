"""(f) Seconds a point of a plane of θ: ours against a plain PyTorch loop that writes the same weights and looks at the same rows.

Every point is looked at as `landscape.plane` does it: the loss over all rows, and the score of the answers, generated or ranked. The loop writes
W + α/r (A B)ᵀ into transformers' T5, so that a forward pass costs no more than without a delta, and reads each batch once for loss and answers.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import landscape
from deltas import Attached, LoRA, Reading
from deltas.errors import InputError
from deltas.evaluation import Exam, Score, batch_of, plans_of
from landscape import steady

from . import originals
from .timing import compared, interleaved

if TYPE_CHECKING:
    from deltas import Task

OURS, THEIRS, KEPT = "deltaspace", "PyTorch", "PyTorch, encoder kept"
SIDE, EXTENT, AT_ONCE = 2, 1.0, 64
"""Points a side of a timed plane, its half-width in filter-normalised directions, and rows a batch."""

Points = Callable[[np.ndarray], Sequence[Score]]


def against_pytorch(attached: Attached, theta: np.ndarray, task: "Task", reading: Reading, rounds: int, threads: int, *, decoder: bool,
                    rows: int = 64, seed: int = 0) -> dict[str, Any]:
    """Both on one plane through θ along two random filter-normalised directions, in turn.

    Args:
        decoder: only parameters of the decoder move.

    Returns:
        What `compared` gives, for one point; the largest difference of losses and of scores; the seconds until our first point, with compiling,
        and how the loop's seconds are shared out. On a plane of the decoder also a loop that keeps the encoder's output by hand.
    """
    exam = Exam.of(attached.backbone, task, "test", reading, rows)
    around = plane_around(attached, theta, "decoder." if decoder else "", seed)
    c = np.stack(np.meshgrid([-EXTENT, EXTENT], [-EXTENT, EXTENT]), -1).reshape(-1, 2)
    start = time.perf_counter()
    ours = steady.evaluator(attached, exam, around.decode(around.label, c))
    ours(around.decode(around.label, c[:1]))
    first = time.perf_counter() - start
    model = originals.load(attached.backbone, threads)
    ways: dict[str, Points] = {OURS: ours, THEIRS: Loop(attached, exam, model)}
    if decoder:
        ways[KEPT] = Loop(attached, exam, model, keep=True)
    surfaces = {name: surveyed(around, way) for name, way in ways.items()}
    apart = {what: max(float(np.abs(getattr(surface, what) - getattr(surfaces[OURS], what)).max()) for surface in surfaces.values())
             for what in ("loss", "score")}
    spent: dict[str, list[float]] = {name: [] for name in ways}

    def run(name: str) -> None:
        before = time.process_time()
        surveyed(around, ways[name])
        spent[name].append(time.process_time() - before)

    seconds = interleaved({name: functools.partial(run, name) for name in ways}, rounds)
    processor = {name: values[1:] for name, values in spent.items()}  # the first call is not timed
    loop: Any = ways[THEIRS]
    found, cpu = (compared(each, OURS, THEIRS, per=SIDE**2) for each in (seconds, processor))
    return found | {
        "loss_difference": apart["loss"], "score_difference": apart["score"], "first_point_seconds": round(first, 2),
        "processor_time": {name: cpu[name] for name in ("ratio", "ratio_range", "seconds", "seconds_range")},
        "theirs_answers_share": round(loop.answers / loop.seconds, 3), "moving": "decoder" if decoder else "encoder and decoder",
        "losses": [float(f"{value:.4g}") for value in surfaces[OURS].loss.reshape(-1)], "points_a_call": SIDE**2,
        "against_encoder_kept": compared(seconds, OURS, KEPT, per=SIDE**2) if decoder else None,
        **shapes_of(exam), "decode": reading.decode,
    }  # fmt: skip


def surveyed(around: Any, evaluate: Points) -> landscape.Surface:
    """The plane, as `landscape.plane` makes it of an evaluator."""

    def both(label: str, thetas: np.ndarray) -> tuple[list[float], list[float]]:
        scores = evaluate(thetas)
        return [score.loss for score in scores], [score.score for score in scores]

    return landscape.survey(around, both, extent=EXTENT, resolution=SIDE)


def plane_around(attached: Attached, theta: np.ndarray, beginning: str, seed: int) -> landscape.Around:
    """Random filter-normalised directions of the parameters whose names begin so."""
    around = landscape.Around.random(attached, theta, seed=seed)
    layout = attached.layout
    moves = np.repeat([name.startswith(beginning) for name in layout.names], [int(np.prod(shape)) for shape in layout.shapes])
    return landscape.Around(attached=attached, centre=theta, directions=around.directions * moves, axes=around.axes, normalised=True)


def shapes_of(exam: Exam) -> dict[str, Any]:
    """Rows and padded tokens of the batches."""
    lengths = [length for length, _, _ in plans_of([exam], AT_ONCE)[0]]
    labels = {} if exam.labels is None else {"labels": len(exam.labels), "label_tokens": exam.labels.target_ids.shape[1]}
    return {"rows": len(exam.examples), "tokens": lengths, "target_tokens": exam.encoded.target_ids.shape[1], **labels}


class Loop:
    """θ [M, D] ↦ the score of each, in PyTorch, point by point.

    Args:
        model: transformers' T5 with the backbone's weights.
        keep: keep what the encoder made of each batch for the next points; right only where no parameter of the encoder moves.

    Raises:
        InputError: another type than LoRA without variants.
    """

    def __init__(self, attached: Attached, exam: Exam, model: Any, *, keep: bool = False) -> None:
        config = attached.config
        if not isinstance(config, LoRA) or config != LoRA(label=config.label, sites=config.sites, exclude=config.exclude, rank=config.rank,
                                                          alpha=config.alpha):
            raise InputError(f"expected a plain LoRA, got {config}; choose another delta")
        self.attached, self.exam, self.model, self.keep = attached, exam, model, keep
        self.scale, self.kept = config.alpha / config.rank, {}
        self.seconds = self.answers = 0.0
        names = attached.layout.names
        self.layers = {}
        for name in (name.removesuffix(".a") for name in names if name.endswith(".a")):
            weight = model.get_submodule(originals.module_name(attached.backbone, name)).weight
            self.layers[name] = weight, weight.detach().clone()
        self.batches = []
        width = exam.encoded.target_ids.shape[1]
        for length, rows, valid in plans_of([exam], AT_ONCE)[0]:
            batch = batch_of(exam.encoded, rows[valid], length, width)
            self.batches.append((rows[valid], {name: originals.tensor(array).long() for name, array in batch.items()}))
        self.labels: list[Any] = []
        if exam.labels is not None:
            count = np.arange(len(exam.labels))
            labels = batch_of(exam.labels, count, 1, exam.labels.target_ids.shape[1])
            self.labels = [originals.tensor(labels[name]).long() for name in ("target_ids", "target_mask")]

    def __call__(self, thetas: np.ndarray) -> list[Score]:
        """The scores; the time is added up in `seconds`, that of the answers in `answers` too."""
        import torch

        with torch.inference_mode():
            start = time.perf_counter()
            scores = [self._one(theta) for theta in thetas]
            self.seconds += time.perf_counter() - start
        return scores

    def write(self, theta: np.ndarray) -> None:
        """Put the delta into the weights, in the place of the last one."""
        import torch

        vector: Any = np.asarray(theta, np.float32)
        values = {name: originals.tensor(value) for name, value in self.attached.layout.unflatten(vector).items()}
        for name, (weight, before) in self.layers.items():
            torch.addmm(before, values[f"{name}.b"].T, values[f"{name}.a"].T, alpha=self.scale, out=weight)

    def _one(self, theta: np.ndarray) -> Score:
        self.write(theta)
        count, width = len(self.exam.examples), self.exam.encoded.target_ids.shape[1]
        losses, answers = np.zeros((count, 2)), np.zeros(count if self.labels else (count, width), np.int32)
        for number, (rows, batch) in enumerate(self.batches):
            read = self._read(number, batch)
            losses[rows, 0] = self._losses(read, batch, batch["target_ids"], batch["target_mask"]).cpu().numpy()
            losses[rows, 1] = batch["target_mask"].sum(-1).cpu().numpy()
            start = time.perf_counter()
            answers[rows] = self._ranked(read, batch) if self.labels else self._generated(read, batch, width)
            self.answers += time.perf_counter() - start
        return self.exam.score(self.attached.backbone, answers, losses)

    def _read(self, number: int, batch: Mapping[str, Any]) -> Any:
        if number not in self.kept:
            read = self.model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            if not self.keep:
                return read
            self.kept[number] = read
        return self.kept[number]

    def _losses(self, read: Any, batch: Mapping[str, Any], targets: Any, mask: Any) -> Any:
        """The summed cross-entropy of each row's targets [B, T]."""
        import torch

        targets = targets.masked_fill(mask == 0, -100)
        logits = self.model(encoder_outputs=read, attention_mask=batch["attention_mask"], labels=targets, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(-1)

    def _generated(self, read: Any, batch: Mapping[str, Any], width: int) -> np.ndarray:
        options = {"max_new_tokens": width, "do_sample": False, "num_beams": 1}
        ids = self.model.generate(encoder_outputs=read, attention_mask=batch["attention_mask"], **options)
        ids = ids[:, 1:].cpu().numpy()  # the first token opens every answer
        return np.pad(ids, [(0, 0), (0, width - ids.shape[1])], constant_values=self.attached.backbone.config.pad_token_id)

    def _ranked(self, read: Any, batch: Mapping[str, Any]) -> np.ndarray:
        import torch

        rows, likelihoods = len(batch["input_ids"]), []
        for ids, mask in zip(*self.labels, strict=True):
            likelihoods.append(-self._losses(read, batch, ids.expand(rows, -1), mask.expand(rows, -1)))
        return torch.stack(likelihoods).argmax(0).cpu().numpy()
