"""From text to batches of token ids: short rows run with short rows, and which rows a step sees follows from a seed alone.

Inputs are padded to the smallest bucket that holds them. A training run is a list of segments, each of one bucket and so of one compiled
shape. numpy only; nothing here knows of devices.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int32

from deltas.errors import InputError
from deltas.tasks.task import Example

Answering = Literal["generate", "rank", "auto"]
WIDTHS = tuple(2**i for i in range(2, 12))
"""Tokens that targets are padded to: label words are short, and ranking writes each of them for every row."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How text becomes tokens, and how answers are read off.

    Args:
        max_input, max_target: tokens kept of an input and of an answer, the end token included.
        input: what the backbone reads; `{input}` is the example's text, `{task}` the task's name.
        target: what it is to write; `{answer}` is the answer, `{task}` the task's name.
        decode: "generate" the answer greedily, "rank" the task's labels by likelihood, or "auto": rank where a task has labels, else generate.
        verbalizer: how an encoder scores labels (`deltas.verbalizer`); None: words with a masked-language head, cosine without.
        buckets: lengths in tokens that inputs are padded to; the maximum itself is always one of them. Targets are padded to 4, 8, 16, ….
    """

    max_input: int = 512
    max_target: int = 64
    input: str = "{input}"
    target: str = "{answer}"
    decode: Answering = "generate"
    verbalizer: Literal["words", "cosine", "linear"] | None = None
    buckets: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", tuple(self.buckets))
        for name in ("max_input", "max_target"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 2:
                raise InputError(f"expected {name} to be a whole number of at least 2 tokens, got {value!r}; choose another")
        if self.decode not in get_args(Answering):
            raise InputError(f"expected decode to be {', '.join(get_args(Answering))}, got {self.decode!r}; choose one of these")
        if self.verbalizer not in (None, "words", "cosine", "linear"):
            raise InputError(f"expected verbalizer to be words, cosine or linear, got {self.verbalizer!r}; choose one of these")
        if any(not isinstance(b, int) or b < 1 for b in self.buckets) or list(self.buckets) != sorted(set(self.buckets)):
            raise InputError(f"expected buckets as rising whole numbers of tokens, got {self.buckets}; sort them")
        _check_format("input", self.input)
        _check_format("answer", self.target)

    def bucket(self, length: int, limit: int) -> int:
        """The smallest bucket that holds `length` tokens, where `limit` is the most there can be."""
        return min((b for b in self.buckets if length <= b < limit), default=limit)


def _check_format(wanted: str, text: str) -> None:
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    except ValueError:
        fields = set()
    if wanted not in fields or not fields <= {wanted, "task"}:
        raise InputError(f"expected a text with {{{wanted}}} and perhaps {{task}}, got {text!r}; write other braces twice")


@dataclass(frozen=True, eq=False)
class Encoded:
    """R examples as token ids, each row ended by the end token and then padded.

    Targets are what the decoder is to write; its start token is not included. Of an encoder they are the number of the label, [R, 1], and
    `tables` is what every batch carries of the labels.
    """

    input_ids: Int32[np.ndarray, "R S"]
    input_lengths: Int32[np.ndarray, " R"]
    target_ids: Int32[np.ndarray, "R T"]
    target_lengths: Int32[np.ndarray, " R"]
    pad_id: int = 0
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)


def encode(
    examples: Sequence[Example], task_name: str, tokenizer: Any, reading: Reading, *, pad_id: int, eos_id: int | None,
    before: Sequence[int] = (), after: Sequence[int] | None = None, opening: Sequence[int] = (),
) -> Encoded:
    """The examples' inputs and first answers as token ids; S and T are the lengths that the longest row is padded to.

    What opens and closes a row is added here, not by the tokenizer (a bare `tokenizer.json` may know of none), and survives truncation.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        pad_id: what rows are padded with.
        eos_id: the end token of an answer; None for backbones without one.
        before, after: token ids around an input; None after it is the end token.
        opening: token ids before an answer.

    Raises:
        InputError: no examples.
    """
    if not examples:
        raise InputError(f"expected examples of task {task_name}, got none; check its rows")
    targets, end = [reading.target.format(answer=e.answers[0], task=task_name) for e in examples], [] if eos_id is None else [eos_id]
    return Encoded(
        *tokens(turned(examples, task_name, reading), tokenizer, reading, reading.max_input, pad_id, before, end if after is None else after),
        *tokens(targets, tokenizer, replace(reading, buckets=WIDTHS), reading.max_target, pad_id, opening, end),
        pad_id,
    )


def turned(examples: Sequence[Example], task_name: str, reading: Reading) -> list[str]:
    """The examples' inputs as the backbone reads them."""
    return [reading.input.format(input=e.input, task=task_name) for e in examples]


def tokens(
    texts: Sequence[str], tokenizer: Any, reading: Reading, limit: int, pad_id: int, before: Sequence[int], after: Sequence[int]
) -> tuple[Int32[np.ndarray, "R L"], Int32[np.ndarray, " R"]]:
    """The texts as token ids between `before` and `after`, cut to `limit` and padded, and their lengths."""
    start, end = list(before), list(after)
    kept = limit - len(start) - len(end)
    if kept < 1:
        raise InputError(f"expected room for a text beside {len(start) + len(end)} other tokens, got a limit of {limit}; raise max_input")
    # verbose=False: the warning about long texts is not for us, they are cut below
    rows = [start + ids[:kept] + end for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
    rows = [row or [pad_id] for row in rows]  # attention over no token at all is undefined
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.full((len(rows), reading.bucket(int(lengths.max()), limit)), pad_id, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids, lengths


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive training steps on rows of one bucket."""

    length: int
    """Input tokens; the padded inputs can be cut to it."""
    rows: Int32[np.ndarray, "steps B"]


def schedule(
    encoded: Encoded, reading: Reading, *, steps: int, batch_size: int, segment_steps: int, seed: int
) -> list[Segment]:
    """Which rows each of `steps` training steps sees: a pure function of its arguments.

    Each segment draws its bucket with probability ∝ the bucket's rows, and takes them from that bucket's own sequence of epochs, each
    shuffled anew: no row is seen again before the others of its bucket. A bucket with less than a batch of rows joins the next larger
    one, the largest joins the next smaller. More `steps` only append: a longer run begins like a shorter one.

    Args:
        steps: in total; the last segment is cut to fit.
        batch_size: rows a step. A task with fewer rows repeats some within a step.
        segment_steps: steps a segment.
        seed: of the drawing and the shuffling, at least 0.
    """
    if min(steps, batch_size, segment_steps) < 1:
        raise InputError(
            f"expected steps, batch_size and segment_steps of at least 1, got {steps}, {batch_size} and {segment_steps}; raise them"
        )
    groups = _groups(_buckets(encoded, reading), batch_size)
    decks = [_Deck(rows, np.random.default_rng([seed, 1, number])) for number, (_, rows) in enumerate(groups)]
    share = np.array([len(rows) for _, rows in groups]) / len(encoded)
    draw = np.random.default_rng([seed, 0])
    segments = []
    for start in range(0, steps, segment_steps):
        number = int(draw.choice(len(groups), p=share))
        now = min(segment_steps, steps - start)
        segments.append(Segment(groups[number][0], decks[number].take(now * batch_size).reshape(now, batch_size)))
    return segments


def evaluation_batches(
    encoded: Encoded, reading: Reading, batch_size: int
) -> list[tuple[int, Int32[np.ndarray, " B"], Bool[np.ndarray, " B"]]]:
    """All rows once, as (input length, rows, valid): sorted by length, so that padding is little.

    Every batch has `batch_size` rows; the last is filled up with repetitions of its last row, not valid.
    """
    if batch_size < 1:
        raise InputError(f"expected a batch_size of at least 1, got {batch_size}; raise it")
    order = np.argsort(encoded.input_lengths, kind="stable").astype(np.int32)
    buckets, batches = _buckets(encoded, reading), []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        missing = batch_size - len(rows)
        valid = np.arange(batch_size) < len(rows)
        batches.append((int(buckets[rows[-1]]), np.pad(rows, (0, missing), mode="edge"), valid))
    return batches


def _buckets(encoded: Encoded, reading: Reading) -> np.ndarray:
    """The bucket of each row; the width of the padded inputs is always the last one."""
    width = encoded.input_ids.shape[1]
    sizes = np.array([b for b in reading.buckets if b < width] + [width])
    return sizes[np.searchsorted(sizes, encoded.input_lengths)]


def _groups(buckets: np.ndarray, batch_size: int) -> list[tuple[int, np.ndarray]]:
    """(length, rows) of each bucket that training draws from, short ones first."""
    groups: list[tuple[int, np.ndarray]] = []
    small = np.array([], np.int32)
    for length in np.unique(buckets):
        small = np.concatenate([small, np.flatnonzero(buckets == length).astype(np.int32)])
        if len(small) >= batch_size:
            groups.append((int(length), small))
            small = small[:0]
    if len(small):  # too few of the longest
        fewer = groups.pop()[1] if groups else small[:0]
        groups.append((int(buckets.max()), np.concatenate([fewer, small])))
    return groups


class _Deck:
    """Rows dealt without replacement, shuffled anew when they run out."""

    def __init__(self, rows: np.ndarray, rng: np.random.Generator) -> None:
        self._rows, self._rng = rows, rng
        self._left = rows[:0]

    def take(self, count: int) -> np.ndarray:
        shuffles = -(-(count - len(self._left)) // len(self._rows))
        dealt = np.concatenate([self._left, *(self._rng.permutation(self._rows) for _ in range(shuffles))])
        self._left = dealt[count:]
        return dealt[:count]
