"""Rows in files give the numbers of rows in memory, at the memory asked for, and never those of a file that is not what it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deltas.errors import InputError
from deltas.filed import Filed
from deltas.files import sha256
from subspace.gram import combine, gram, products, unexplained
from subspace.kept import Kept
from subspace.rows import READERS, Rows, Stored

N, D = 7, 1003


def filed(folder, rows, offset=24):
    """Rows as a bank gives them: behind a header, with a checksum of it and of them."""
    folder.mkdir(exist_ok=True)
    found = []
    for n, row in enumerate(rows):
        path = folder / f"{n}.safetensors"
        path.write_bytes(b"h" * offset + row.tobytes())
        found.append(Filed(path, offset, len(row), checksum=sha256("h" * offset, row.tobytes()), after=["h" * offset]))
    return found


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [(5 + rng.standard_normal(D)).astype(np.float32) for _ in range(N)]


@pytest.fixture
def files(arrays, tmp_path):
    return filed(tmp_path / "rows", arrays)


MEMORIES = [1, 2 * 8 * N * 100, 2**20]


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("ranges", [None, [slice(0, 3), slice(500, 720), slice(720, D)]])
@pytest.mark.parametrize("order", [range(N), [4, 0, 0, 6, 4]])
def test_files_are_read_as_arrays_are(arrays, files, memory, ranges, order):
    """Blocks of one column, of a part, of all; rows drawn twice; columns in several ranges."""
    there, here = (Stored(rows).take(order) if ranges is None else Stored(rows).columns(ranges).take(order) for rows in (files, arrays))
    x = np.stack([here[n] for n in range(len(order))]).astype(np.float64)
    blocks = [(columns, block.copy()) for columns, block in there.blocks(memory)]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks], axis=1), x)
    assert [i for columns, _ in blocks for i in range(columns.start, columns.stop)] == list(range(there.size))
    np.testing.assert_array_equal(np.stack([there[n] for n in range(len(order))]), x)
    np.testing.assert_allclose(gram(there, memory=memory), x @ x.T, rtol=1e-13)
    directions = np.random.default_rng(1).standard_normal((3, there.size)).astype(np.float32)
    np.testing.assert_allclose(products(directions, there, memory=memory), x @ directions.T.astype(np.float64), rtol=1e-10)
    coefficients = np.random.default_rng(1).standard_normal((2, len(order)))
    np.testing.assert_allclose(combine(coefficients, there, memory=memory), coefficients @ x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("memory", [2 * 8 * N * 50, 8 * N * D, 8 * N * D - 1])
def test_two_blocks_share_the_memory_and_one_may_have_all(files, memory):
    widths = [block.shape[1] for _, block in Stored(files).blocks(memory)]
    blocks = min(len(widths), 2)
    assert blocks * max(widths) * 8 * N <= memory
    assert (len(widths) == 1) == (memory >= 8 * N * D)


def test_a_block_stays_while_the_next_is_read(files, arrays):
    x = np.stack(arrays)
    for columns, block in Stored(files).blocks(2 * 8 * N * 10):
        time.sleep(0.001)  # the readers are at the next one by now
        np.testing.assert_array_equal(block, x[:, columns])


def test_thousands_of_rows_need_neither_pages_nor_open_files(tmp_path):
    """Maps of the files would leave 64 MB resident, and one open file a row."""
    row = np.ones(2**18, np.float32)
    rows = Stored(filed(tmp_path / "rows", [row] * 64))
    resident, before, most = _resident_file_pages(), len(os.listdir("/proc/self/fd")), 0
    for _ in rows.blocks(2**24):
        most = max(most, len(os.listdir("/proc/self/fd")))
    assert most - before <= READERS + 2
    assert _resident_file_pages() - resident < 8 * 2**20
    mapped = [np.memmap(tmp_path / "rows" / f"{n}.safetensors", np.float32, "r") for n in range(64)]
    for _ in Stored(mapped).blocks(2**24):
        pass
    assert _resident_file_pages() - resident > 32 * 2**20  # so that the figure above means something


def _resident_file_pages() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return 1024 * int(line.split()[1])


# ------------------------------------------------------------------ altered files
PASSES = {
    "gram": gram,
    "gram of columns": lambda rows: gram(Stored(rows).columns([slice(0, 5)])),
    "gram of drawn rows": lambda rows: gram(Stored(rows).take([3, 3, 1]), memory=2 * 3 * 8 * 7),
    "combine": lambda rows: combine(np.ones((1, N)), rows),
    "products": lambda rows: products(np.ones((1, D)), rows),
    "unexplained": lambda rows: unexplained(rows, np.zeros(D), np.zeros((N, 1)), np.zeros((1, D))),
    "one": lambda rows: Stored(rows)[3],
    "some of one": lambda rows: Stored(rows).columns([slice(5, 9)])[3],
}


@pytest.mark.parametrize("name", PASSES)
def test_an_altered_file_is_refused_by_name_whatever_is_read(files, refused, name):
    PASSES[name](files)
    spoiled = bytearray(files[3].path.read_bytes())
    spoiled[-4 * D // 2] ^= 1
    files[3].path.write_bytes(spoiled)
    again = [Filed(f.path, f.offset, f.size, checksum=f.checksum, after=["h" * f.offset]) for f in files]
    with refused("3.safetensors", "checksum"):
        PASSES[name](again)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_file_that_changes_between_two_blocks_is_refused(files, refused, memory):
    rows = Stored(files)
    if memory == MEMORIES[-1]:  # one block: between two passes
        gram(rows, memory=memory)
    else:
        next(iter(rows.blocks(memory)))
    files[2].path.write_bytes(files[2].path.read_bytes()[:-4])
    with refused("2.safetensors", "another"):
        gram(rows, memory=memory)


def test_a_number_that_is_not_finite_is_refused_by_its_file(arrays, tmp_path, refused):
    arrays[4][17] = np.inf
    with refused("4.safetensors", "infinity"):
        gram(filed(tmp_path / "rows", arrays))


# ------------------------------------------------------------------ going on after a kill
class Stopping(Stored):
    """Rows whose reading fails at a column, as a kill would end it."""

    stop_at = D

    def _fill(self, block, there, which):
        if there.start >= self.stop_at:
            raise KeyboardInterrupt
        super()._fill(block, there, which)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("subspace.kept.EVERY", 0.0)


MEMORY = 2 * 8 * N * 100


def read_from(rows, state):
    """(Gram matrix, the first column that was read) with a state."""
    first = []
    kept = rows.kept(state)
    fill = kept._fill
    kept._fill = lambda block, there, which: (first.append(there.start), fill(block, there, which))
    found = kept.gram(MEMORY)
    return found, min(first, default=None)


@pytest.mark.parametrize("inside", ["memory", "files"])
def test_a_gram_matrix_goes_on_where_it_was(arrays, files, tmp_path, at_once, monkeypatch, inside):
    rows, state = {"memory": arrays, "files": files}[inside], tmp_path / "state" / "lora.gram"
    whole = gram(rows, memory=MEMORY)
    monkeypatch.setattr(Stopping, "stop_at", 650)
    with pytest.raises(KeyboardInterrupt):
        gram(Stopping(rows), memory=MEMORY, state=state)
    found, first = read_from(Stored(rows), state)
    assert 500 <= first <= 700
    np.testing.assert_array_equal(found, whole)  # the same blocks in the same order
    assert read_from(Stored(rows), state)[1] is None  # nothing is left to be read
    np.testing.assert_array_equal(read_from(Stored(rows), state)[0], whole)


def test_rows_that_were_gone_on_with_are_still_compared_with_their_checksums(files, tmp_path, refused, at_once):
    """The first part was read by the run that was killed; the whole file is read once more for it."""
    state = tmp_path / "lora.gram"
    Kept(state, f"{Stored(files).identity} {slice(0, D)}").save(lambda: np.zeros((N, N)), 600, now=True)
    spoiled = bytearray(files[3].path.read_bytes())
    spoiled[40] ^= 1
    stat = files[3].path.stat()
    files[3].path.write_bytes(spoiled)
    os.utime(files[3].path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # nobody could see it
    with refused("3.safetensors", "checksum"):
        gram(files, state=state)


@pytest.mark.parametrize("what", ["another row", "another order", "other columns", "a damaged state", "no state"])
def test_the_state_of_other_rows_is_not_gone_on_from(arrays, tmp_path, what):
    state, rows = tmp_path / "lora.gram", Stored(arrays)
    gram(rows, state=state)
    if what == "another row":
        arrays[2] = arrays[2] + 1
        rows = Stored(arrays)
    elif what == "another order":
        rows = rows.take([1, 0, *range(2, N)])
    elif what == "other columns":
        rows = rows.columns([slice(0, 50)])
    elif what == "a damaged state":
        state.write_bytes(state.read_bytes()[:-3] + b"abc")
    else:
        state.unlink()
    found, first = read_from(rows, state)
    assert first == 0
    np.testing.assert_array_equal(found, rows.gram(MEMORY))


def test_a_shuffled_order_leaves_the_state_alone(arrays, tmp_path, at_once):
    rows = Stored(arrays, state=tmp_path / "lora.gram")
    rows.gram()
    before = (tmp_path / "lora.gram").read_bytes()
    rows.take([1, 0, *range(2, N)]).gram()
    rows.columns([slice(0, 9)]).gram()
    assert (tmp_path / "lora.gram").read_bytes() == before


KILLED = """
import sys, time
import numpy as np
import subspace.kept
from subspace.rows import Stored
subspace.kept.EVERY = 0.0
arrays = [np.full(4000, n + 1, np.float32) for n in range(5)]
class Slow(Stored):
    def _fill(self, block, there, which):
        time.sleep(0.001)
        super()._fill(block, there, which)
print("begun", flush=True)
Slow(arrays).kept(sys.argv[1]).gram(2 * 8 * 5 * 4)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_state_that_another_goes_on_from(tmp_path):
    state, arrays = tmp_path / "lora.gram", [np.full(4000, n + 1, np.float32) for n in range(5)]
    with subprocess.Popen([sys.executable, "-c", KILLED, str(state)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        while not state.exists():
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    _, done = Kept(state, f"{Stored(arrays).identity} {slice(0, 4000)}").load()
    assert 0 < done < 4000
    found, first = read_from(Stored(arrays), state)
    assert first == done
    np.testing.assert_array_equal(found, np.outer(range(1, 6), range(1, 6)) * 4000.0)


def test_a_state_is_for_rows_that_can_be_read_in_parts(refused, tmp_path):
    class Product(Rows):
        size = 3
        __len__ = __getitem__ = blocks = take = columns = None

    with refused("Product", "state"):
        gram(Product(), state=tmp_path / "x")


def test_a_full_disk_is_one_sentence(arrays, tmp_path, at_once):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected to write"):
        gram(arrays, state=tmp_path / "file" / "lora.gram", memory=MEMORY)
