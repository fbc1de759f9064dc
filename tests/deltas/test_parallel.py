"""Threads that are not started for little."""

import numpy as np
from threadpoolctl import threadpool_info

from deltas.parallel import SMALL, threads_for


def threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_one_thread_decomposes_what_is_small():
    np.linalg.svd(np.eye(2))
    before = threads()
    with threads_for(SMALL - 1):
        assert set(threads()) <= {1}
    assert threads() == before
    with threads_for(SMALL):
        assert threads() == before
