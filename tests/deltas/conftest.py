"""Most of the time of these tests is that of compiling tiny programs that run once."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(request):
    """Less optimisation: a third of the time. Comparisons with the originals run as users do."""
    jax.config.update("jax_disable_most_optimizations", "parity" not in request.module.__name__)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
