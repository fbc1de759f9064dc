"""Numbers that stay in their file: read when they are asked for, a stretch at a time, and compared with their checksum.

A memory map would do for a few; of thousands each would keep a file open, and every page that was read would count as resident memory.
"""

import hashlib
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from deltas.errors import InputError
from deltas.files import DIGITS

PIECE = 2**20
"""Numbers that are read at a time where only their checksum is wanted."""


class Filed:
    """A float32 vector [D] in a file, which is open only while it is read.

    Numbers that are read from the first to the last, in whatever pieces, are compared with the checksum on the way; before the first
    stretch of any other reading they are read once for that. A file that is not the one it was when this object was made is refused.
    """

    def __init__(self, path: str | Path, offset: int, size: int, *, checksum: str | None = None, after: Sequence[str] = ()) -> None:
        """`size` numbers from the byte `offset` on.

        Args:
            checksum: `deltas.files.sha256` of some texts and the numbers; None where there is none.
            after: those texts.
        """
        self.path, self.offset, self.size, self.checksum = Path(path), offset, size, checksum
        self.shape, self.dtype = (size,), np.dtype(np.float32)
        self._begun = hashlib.sha256("".join(after).encode())
        self._running, self._seen, self._lock = self._begun, -1, threading.Lock()
        self._verified = checksum is None
        self._stamp = _stamp(os.stat(path))

    def __len__(self) -> int:
        """D."""
        return self.size

    @property
    def identity(self) -> str:
        """What tells these numbers from others without reading them: the file's name, length, time and checksum."""
        return f"{self.path.name}|{self.offset}|{self.size}|{self._stamp[0]}|{self._stamp[1]}|{self.checksum}"

    def read(self, start: int, out: Float32[np.ndarray, " c"]) -> None:
        """The numbers from `start` on, as many as `out` (contiguous) has.

        Raises:
            InputError: the file was changed, removed or replaced, or its contents are not those of its checksum.
        """
        try:
            with io.FileIO(self.path) as file:
                if _stamp(os.fstat(file.fileno())) != self._stamp:
                    raise self._changed("another one")
                file.seek(self.offset + 4 * start)
                left = out.data.cast("B")
                while len(left):
                    if not (count := file.readinto(left)):
                        raise self._changed("a shorter one")
                    left = left[count:]
        except OSError as error:
            raise self._changed(error.strerror or str(error)) from None
        if not self._verified:
            self._follow(start, out)

    def verify(self) -> None:
        """Read all numbers for their checksum, unless they were compared with it before."""
        if not self._verified:
            buffer = np.empty(min(PIECE, self.size), np.float32)
            for start in range(0, self.size, PIECE):
                self.read(start, buffer[: self.size - start])

    def __getitem__(self, key: Any) -> Any:
        """A part, read from the file."""
        if not isinstance(key, slice):
            return np.asarray(self)[key]
        start, stop, step = key.indices(self.size)
        if step != 1:
            return np.asarray(self)[key]
        if stop - start < self.size:
            self.verify()
        out = np.empty(max(stop - start, 0), np.float32)
        self.read(start, out)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, read from the file."""
        if copy is False:
            raise ValueError("numbers in a file cannot become an array without being copied")
        return self[:].astype(np.float32 if dtype is None else dtype, copy=False)

    def _follow(self, start: int, numbers: np.ndarray) -> None:
        """Bring the checksum up to date where these are the next numbers."""
        with self._lock:  # a row that was drawn twice is read by two threads
            if start == 0:
                self._running, self._seen = self._begun.copy(), 0
            if start == self._seen:
                self._running.update(numbers.data)
                self._seen += len(numbers)
                if self._seen == self.size:
                    if self._running.hexdigest()[:DIGITS] != self.checksum:
                        raise InputError(f"expected {self.path} as it was written, got other contents (its checksum differs); train it again")
                    self._verified = True

    def _changed(self, what: str) -> InputError:
        return InputError(f"expected the file {self.path} that was there when reading began, got {what}; leave the bank as it is while it is "
                          "read, and run again")


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino
