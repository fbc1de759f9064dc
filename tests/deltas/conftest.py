"""Comparisons with the originals run as users do, not as the other tests."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_fully(request):
    """All optimisations for the modules named after parity; nothing that was compiled one way is used in the other."""
    if "parity" not in request.module.__name__:
        yield
        return
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
