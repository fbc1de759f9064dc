"""Laws of encoding, of the schedule and of evaluation batches."""

import functools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltas.errors import InputError
from deltas.tasks import Encoded, Example, Reading, encode, evaluation_batches, load_tasks, schedule

PAD, EOS = 0, 1
WORDS = ("pad", "end", "unknown", "the", "cat", "sat", "on", "a", "mat", "task", "t")


@functools.cache
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="unknown"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="unknown", pad_token="pad", eos_token="end", model_max_length=4)


def encoded_from(lengths: list[int], reading: Reading) -> Encoded:
    lengths_ = np.array(lengths, np.int32)
    ids = np.zeros((len(lengths), reading.bucket(max(lengths), reading.max_input)), np.int32)
    ids[np.arange(ids.shape[1]) < lengths_[:, None]] = 7
    return Encoded(ids, lengths_, ids[:, :1], np.ones(len(lengths), np.int32))


def encode_(texts: list[str], reading: Reading, answer: str = "mat", eos_id: int | None = EOS) -> Encoded:
    return encode([Example(t, (answer,)) for t in texts], "t", tokenizer(), reading, pad_id=PAD, eos_id=eos_id)


def test_rows_end_with_the_end_token_and_are_padded_to_a_bucket():
    found = encode_(["the cat", "the cat sat on a mat the cat sat"], Reading(buckets=(4, 12)))
    assert found.input_ids.shape == (2, 12)
    assert found.target_ids.shape == (2, 4)
    assert found.input_ids.dtype == found.target_ids.dtype == found.input_lengths.dtype == np.int32
    assert found.input_ids[0].tolist() == [3, 4, EOS] + [PAD] * 9
    assert found.input_lengths.tolist() == [3, 10]
    assert found.target_lengths.tolist() == [2, 2]
    assert found.target_ids[0].tolist() == [8, EOS, PAD, PAD]


def test_truncation_keeps_the_end():
    found = encode_(["the cat sat on a mat"], Reading(max_input=4, max_target=2), answer="the mat")
    assert found.input_ids.tolist() == [[3, 4, 5, EOS]]
    assert found.target_ids.tolist() == [[3, EOS]]
    assert encode_(["the cat sat on a mat"], Reading(max_input=4), eos_id=None).input_ids.tolist() == [[3, 4, 5, 6]]


def test_formats():
    reading = Reading(input="task {task} {input}", target="the {answer}", buckets=(5,))
    found = encode_(["cat {0}"], reading)  # braces in the text itself are text
    assert found.input_ids[0, :4].tolist() == [9, 10, 4, 2]
    assert found.target_ids[0, :3].tolist() == [3, 8, EOS]


def test_empty_texts_have_a_token():
    assert encode_([""], Reading()).input_ids[0, 0] == EOS
    assert encode_([""], Reading(), eos_id=None).input_lengths.tolist() == [1]


@pytest.mark.parametrize("settings_", [
    {"max_input": 1}, {"max_target": 0}, {"decode": "beam"}, {"buckets": (8, 4)}, {"buckets": (0, 4)}, {"input": "no text"},
    {"input": "{input.__class__}"}, {"input": "{input"}, {"input": "{}"}, {"target": "{input}"},
])
def test_bad_readings(settings_):
    with pytest.raises(InputError):
        Reading(**settings_)


def test_no_examples_and_no_steps():
    with pytest.raises(InputError, match="task t"):
        encode_([], Reading())
    found = encode_(["cat"], Reading())
    with pytest.raises(InputError, match="at least 1"):
        schedule(found, Reading(), steps=0, batch_size=1, segment_steps=1, seed=0)
    with pytest.raises(InputError, match="at least 1"):
        evaluation_batches(found, Reading(), 0)


READINGS = st.builds(
    lambda limit, buckets: Reading(max_input=limit, buckets=tuple(sorted(buckets))),
    st.integers(20, 40), st.sets(st.integers(1, 64), max_size=5),
)
LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=40)
RUNS = st.fixed_dictionaries({
    "steps": st.integers(1, 30), "batch_size": st.integers(1, 9), "segment_steps": st.integers(1, 7), "seed": st.integers(0, 2**32),
})


@given(lengths=LENGTHS, reading=READINGS, run=RUNS)
def test_schedule_has_every_step_and_rows_that_fit(lengths, reading, run):
    encoded = encoded_from(lengths, reading)
    segments = schedule(encoded, reading, **run)
    assert sum(len(s.rows) for s in segments) == run["steps"]
    assert all(1 <= len(s.rows) <= run["segment_steps"] for s in segments)
    for segment in segments:
        assert segment.rows.shape[1] == run["batch_size"]
        assert segment.rows.dtype == np.int32
        assert segment.length in (*reading.buckets, encoded.input_ids.shape[1])
        assert (encoded.input_lengths[segment.rows] <= segment.length).all()
        assert segment.rows.min() >= 0


@given(lengths=LENGTHS, reading=READINGS, run=RUNS)
def test_schedule_is_a_pure_function_and_longer_runs_begin_alike(lengths, reading, run):
    encoded = encoded_from(lengths, reading)
    once, again = (schedule(encoded, reading, **run) for _ in range(2))
    longer = schedule(encoded, reading, **run | {"steps": run["steps"] + 5})
    for a, b, c in zip(once, again, longer, strict=False):
        assert a.length == b.length == c.length
        assert np.array_equal(a.rows, b.rows)
        assert np.array_equal(a.rows, c.rows[: len(a.rows)])


@given(lengths=LENGTHS, reading=READINGS, run=RUNS)
def test_no_row_returns_before_the_others_of_its_bucket(lengths, reading, run):
    segments = schedule(encoded_from(lengths, reading), reading, **run)
    for length in {s.length for s in segments}:
        seen = Counter(np.concatenate([s.rows.ravel() for s in segments if s.length == length]).tolist())
        assert max(seen.values()) - min(seen.values()) <= 1


@settings(max_examples=30)
@given(lengths=LENGTHS, reading=READINGS, batch=st.integers(1, 9))
def test_every_row_is_trained_on_in_the_end(lengths, reading, batch):
    segments = schedule(encoded_from(lengths, reading), reading, steps=2000, batch_size=batch, segment_steps=8, seed=1)
    seen = Counter(np.concatenate([s.rows.ravel() for s in segments]).tolist())
    assert set(seen) == set(range(len(lengths)))


def test_seeds_differ_and_buckets_are_drawn_by_their_rows():
    reading = Reading(buckets=(4, 8))
    encoded = encoded_from([2] * 300 + [6] * 100, reading)
    run = {"steps": 2000, "batch_size": 4, "segment_steps": 1}
    first, second = (schedule(encoded, reading, seed=seed, **run) for seed in (0, 1))
    assert not np.array_equal(first[0].rows, second[0].rows)
    assert np.mean([s.length == 4 for s in first]) == pytest.approx(0.75, abs=0.04)


def test_small_buckets_join_their_neighbours():
    reading = Reading(buckets=(4, 8, 16), max_input=16)
    run = {"steps": 200, "batch_size": 3, "segment_steps": 2, "seed": 0}
    assert {s.length for s in schedule(encoded_from([2] * 2 + [6] * 5 + [12] * 5, reading), reading, **run)} == {8, 16}
    assert {s.length for s in schedule(encoded_from([2] * 5 + [6] * 5 + [12] * 2, reading), reading, **run)} == {4, 16}
    assert {s.length for s in schedule(encoded_from([2, 12], reading), reading, **run)} == {16}


@given(lengths=LENGTHS, reading=READINGS, batch=st.integers(1, 9))
def test_evaluation_covers_each_row_once(lengths, reading, batch):
    encoded = encoded_from(lengths, reading)
    seen, last = [], 0
    for length, rows, valid in evaluation_batches(encoded, reading, batch):
        assert rows.shape == valid.shape == (batch,)
        assert rows.dtype == np.int32
        assert valid.dtype == bool
        assert valid.any()
        assert last <= length
        assert (encoded.input_lengths[rows] <= length).all()
        seen, last = seen + rows[valid].tolist(), length
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.skipif("DELTASPACE_REAL" not in os.environ, reason="DELTASPACE_REAL names no folder of real backbones and tasks")
def test_real_tokenizer():
    from transformers import AutoTokenizer

    real = Path(os.environ["DELTASPACE_REAL"])
    t5 = AutoTokenizer.from_pretrained(real / "t5-small", local_files_only=True)
    task, *_ = load_tasks(real / "tasks")
    reading = Reading(input="[{task}] {input}", max_input=32)
    found = encode(task.train, task.name, t5, reading, pad_id=0, eos_id=1)
    assert found.input_ids.shape[1] <= 32
    assert (found.input_ids[np.arange(len(found)), found.input_lengths - 1] == 1).all()
    assert ((found.target_ids == 1).sum(1) == 1).all()
    assert t5.decode(found.target_ids[0], skip_special_tokens=True) == task.train[0].answers[0]
