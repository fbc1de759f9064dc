"""A warm start against a cold one: the start is all that differs, and what is counted is what was seen."""

from dataclasses import replace

import numpy as np
import pytest
from small_spaces import READING, SHORT, random_space

from deltas import evaluate
from subspace.optimize import attach_to
from subspace.warm_start import Run, WarmStart, warm_start

TRAINING = replace(SHORT, learning_rate=0.05)
OPTIONS = {"training": TRAINING, "reading": READING, "test_rows": 8}


@pytest.fixture(scope="module")
def space(tmp_path_factory, attached):
    return random_space(tmp_path_factory.mktemp("bank"), [attached["lora"]])


def around(space, vector):
    """The subspace with its mean at a vector."""
    return replace(space, parts={"lora": replace(space.part("lora"), mean=vector.astype(np.float32))})


def test_the_start_is_all_that_differs(space, backbone, small_tasks):
    """From a point that decodes to θ0 the warm run is the cold one; from what the cold run ended with it is there at once."""
    task, zero = small_tasks[2], np.zeros(2, np.float32)
    both = warm_start(around(space, np.zeros(space.part("lora").layout.size)), backbone, task, zero, "lora", **OPTIONS)
    assert both.cold.history == both.warm.history
    assert [look["step"] for look in both.cold.history] == [0, 3, 6]
    assert (both.gain, both.steps_cold) == (0, both.steps_warm)
    np.testing.assert_array_equal(both.cold.vector, both.warm.vector)

    there = warm_start(around(space, both.cold.vector), backbone, task, zero, "lora", target=both.cold.dev, **OPTIONS)
    assert there.cold.history == both.cold.history
    assert there.steps_warm == 0
    assert there.steps_cold == there.gain == next(x["step"] for x in both.cold.history if x["dev_score"] >= both.cold.dev)
    assert "warm 0 steps" in str(there)

    attached = attach_to(space, backbone, "lora")
    for run in (there.cold, there.warm):  # what is given back is what was seen
        dev, test = (evaluate(attached, (attached.theta0 + run.vector)[None], task, split, reading=READING, rows=8)[0]
                     for split in ("dev", "test"))
        assert (run.dev, run.score) == (dev.score, test.score)
        assert run.dev == max(look["dev_score"] for look in run.history)


def test_steps_to_a_score():
    def run(*scores):
        history = [{"step": 10 * n, "dev_score": score} for n, score in enumerate(scores)]
        return Run(history=history, vector=np.zeros(1), step=0, dev=max(scores), score=0.0)

    found = WarmStart(task="t", label="lora", seed=0, target=0.5, cold=run(0.0, 0.2, 0.4, 0.6), warm=run(0.3, 0.5, 0.4))
    assert (found.steps_cold, found.steps_warm, found.gain) == (30, 10, 20)
    never = WarmStart(task="t", label="lora", seed=0, target=0.5, cold=run(0.0, 0.5), warm=run(0.3, 0.4))
    assert (never.steps_warm, never.gain) == (None, None)
    assert "warm not reached" in str(never)


def test_a_type_that_the_subspace_lacks_is_refused(space, backbone, small_tasks, refused):
    with refused("'prefix'"):
        warm_start(space, backbone, small_tasks[0], np.zeros(2), "prefix")
    with refused("k = 2"):
        warm_start(space, backbone, small_tasks[0], np.zeros(3), "lora")
