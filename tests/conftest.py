"""What several folders of tests share: a tiny random backbone, small tasks, and what a refusal looks like."""

import contextlib
import os
import re

import jax
import numpy as np
import pytest
import toy
from threadpoolctl import threadpool_limits

import deltas
from deltas.errors import InputError


def pytest_configure():
    """Most of the time of these tests is that of compiling small programs that run once: less optimisation, a third of the time.

    For all of them and from the start: a program that is compiled again in the middle must not differ in its last bits. And one BLAS thread
    each, here and in the commands: the workers beside each other have the cores in use.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    threadpool_limits(1, "blas")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The Hugging Face folder of a tiny T5 1.1; of one layer a stack, since the time of these tests is that of compiling."""
    return toy.write_folder(tmp_path_factory.mktemp("t5"), **toy.SHALLOW)


@pytest.fixture(scope="session")
def backbone(folder):
    return deltas.load_backbone(folder)


@pytest.fixture(scope="session")
def attached(backbone):
    """The backbone with one delta of each kind, by label."""
    kinds = (deltas.LoRA(rank=2), deltas.Adapter(bottleneck=3), deltas.Prefix(length=4),
             deltas.Prefix(length=4, bottleneck=2, label="network"))
    return {kind.label: deltas.Attached.of(backbone, kind) for kind in kinds}


@pytest.fixture(scope="session")
def small_tasks():
    """Three tasks of different lengths, metrics and label sets."""
    return [toy.classify(), toy.copy(), toy.constant()]


@pytest.fixture(scope="session")
def batch():
    """Inputs and targets of different lengths, padded."""
    rng = np.random.default_rng(3)
    ids = {"input_ids": rng.integers(3, 60, (4, 7)), "target_ids": rng.integers(3, 60, (4, 5))}
    masks = {"attention_mask": np.arange(7) < np.array([7, 4, 1, 6])[:, None], "target_mask": np.arange(5) < np.array([5, 2, 3, 1])[:, None]}
    ids["input_ids"] *= masks["attention_mask"]
    ids["target_ids"] *= masks["target_mask"]
    return {name: np.asarray(value, np.int32) for name, value in {**ids, **masks}.items()}


@pytest.fixture(scope="session")
def refused():
    """Bad input raises `InputError` with one sentence: expected, got, remedy."""

    @contextlib.contextmanager
    def check(*words: str):
        with pytest.raises(InputError) as caught:
            yield
        message = str(caught.value)
        assert message.startswith("expected "), message
        assert ", got " in message, message
        assert "; " in message, message
        assert "\n" not in message, message
        assert not re.search(r"\.\s+[A-Z]", message), message
        for word in words:
            assert word in message, message

    return check
