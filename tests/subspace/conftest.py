"""A bank with planted structure, and matrix products exact to float32."""

import jax
import pytest
from subspace_fakes import planted


@pytest.fixture(scope="session")
def bank():
    return planted()


@pytest.fixture(autouse=True)
def exact():
    """Tolerances below are those of float32."""
    with jax.default_matmul_precision("highest"):
        yield
