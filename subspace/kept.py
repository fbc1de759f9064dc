"""A running sum that survives a kill: kept in a file once in a while, and taken up again by the next run of the same job."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from deltas.files import replacing, sha256

EVERY = 60.0
"""Seconds between two savings."""


class Kept:
    """Where a sum over columns is kept: the sum, and how many columns it has seen."""

    def __init__(self, path: str | Path, identity: str, every: float | None = None) -> None:
        """`identity` tells what is summed: a file of another sum is not gone on from."""
        self.path, self.identity, self.every = Path(path), identity, EVERY if every is None else every
        self._last = time.monotonic()

    def load(self) -> tuple[Float64[np.ndarray, "N N"], int] | None:
        """The sum and its columns; None where there is no whole file of this very sum: it is then begun anew."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                about, total = file.metadata(), file.get_tensor("total")
            done = json.loads(about["columns"])
            return (total, done) if about["checksum"] == self._checksum(total, done) else None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def save(self, value: Callable[[], Float64[np.ndarray, "N N"]], done: int, *, now: bool = False) -> None:
        """Replace the file by the sum's value, where that is due or has to be done `now`."""
        from safetensors.numpy import save_file

        if now or time.monotonic() - self._last >= self.every:
            total = np.ascontiguousarray(value())
            with replacing(self.path) as temporary:
                save_file({"total": total}, temporary, {"columns": json.dumps(done), "checksum": self._checksum(total, done)})
            self._last = time.monotonic()

    def _checksum(self, total: np.ndarray, done: int) -> str:
        return sha256(self.identity, str(done), total.tobytes())
