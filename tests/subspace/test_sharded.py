"""One device, several, several processes: the same numbers, each process reading its share of the columns."""

import importlib
import os
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from subspace_fakes import planted

from deltas.bank import Bank, Solution
from deltas.errors import InputError
from deltas.files import sha256
from deltas.layout import Layout
from deltas.types import LoRA
from subspace.base import Subspace
from subspace.gram import combine, gram, products, resumable, unexplained
from subspace.joint_svd import joint_svd
from subspace.rows import Rows, Stored
from subspace.sharded import Sharded, sharded
from subspace.sources import gather

module = importlib.import_module("subspace.sharded")  # the package has a function of the same name

N, D = 7, 101
Device = namedtuple("Device", "process_index platform")


def stored_bank(folder) -> Bank:
    """The planted solutions of one type as files."""
    fake, bank = planted(labels=("lora",)), Bank(folder, create=True)
    layout = Layout(("x",), ((len(fake.starts["lora"]),),))
    start = SimpleNamespace(config=LoRA(), label="lora", layout=layout, theta0=fake.starts["lora"], backbone=SimpleNamespace(fingerprint="b0"),
                            theta0_fingerprint=sha256(fake.starts["lora"].tobytes(), str(layout.to_json())))
    bank.add_start(start)
    for (task, seed), vector in fake.x["lora"].items():
        bank.add(Solution(task=task, seed=seed, config=start.config, layout=layout, vector=vector, theta0=start.theta0, backbone="b0",
                          theta0_fingerprint=start.theta0_fingerprint))
    return bank


def spoil(path):
    """Another last byte."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return [(5 + rng.standard_normal(D)).astype(np.float32) for _ in range(N)]


def all_of(rows, memory=2**20, shift=0.0):
    rng, size = np.random.default_rng(1), rows.size
    mean, codes, basis = rng.standard_normal(size), rng.standard_normal((len(rows), 2)), rng.standard_normal((2, size))
    return [gram(rows, memory=memory), combine(rng.standard_normal((3, len(rows))) + shift, rows, memory=memory),
            products(basis, rows, memory=memory), np.array(unexplained(rows, mean, codes, basis, memory=memory))]


def same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        relative, absolute = (1e-6, 1e-6) if ours.dtype == np.float32 else (1e-12, 1e-9)
        np.testing.assert_allclose(ours, theirs, rtol=relative, atol=absolute)


@pytest.mark.parametrize("memory", [1, 4 * 2 * 4 * N * 10, 2**20])
@pytest.mark.parametrize("ranges", [None, [slice(3, 30), slice(50, 99)]])
def test_devices_compute_what_numpy_does(rows, monkeypatch, memory, ranges):
    """In float64 although JAX is set to float32; also after taking rows and columns."""
    assert not jax.config.jax_enable_x64
    monkeypatch.setattr(module, "arithmetic", module.OnDevices)
    plain, over = Stored(rows), Sharded.of(Stored(rows), jax.devices()[:1])
    if ranges is not None:
        plain, over = plain.columns(ranges), over.columns(ranges)
    same(all_of(over.take([2, 2, 5, 0]), memory), all_of(plain.take([2, 2, 5, 0]), memory))
    assert all_of(over, memory)[0].dtype == np.float64
    np.testing.assert_allclose(gram(over, memory=memory), gram(plain), rtol=1e-13)


def test_a_mesh_of_several_axes_gives_its_devices(bank):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    plain, over = joint_svd(bank, k=3), joint_svd(sharded(bank, mesh), k=3)
    np.testing.assert_allclose(over.codes, plain.codes, atol=1e-5)
    assert [type(block.rows) for block in sharded(bank).blocks.values()] == [Sharded] * 3


def test_who_multiplies(monkeypatch):
    """numpy on one CPU device and on TPUs, the devices elsewhere."""
    monkeypatch.setattr(module, "OnDevices", lambda devices: "devices")
    found = {(platform, count): module.arithmetic.__wrapped__(tuple(Device(0, platform) for _ in range(count)))
             for platform in ("cpu", "gpu", "tpu") for count in (0, 1, 4)}
    assert {key for key, on in found.items() if on == "devices"} == {("cpu", 4), ("gpu", 1), ("gpu", 4)}


def test_a_sharded_sum_goes_on_after_a_kill(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "arithmetic", module.OnDevices)
    monkeypatch.setattr("subspace.kept.EVERY", 0.0)
    over, memory = Sharded.of(Stored(rows, state=tmp_path / "x.gram"), jax.devices()[:1]), 4 * 2 * 4 * N * 10
    fill = Sharded._fill

    def failing(self, block, there, which):
        if there.start >= 60:
            raise KeyboardInterrupt
        fill(self, block, there, which)

    monkeypatch.setattr(Sharded, "_fill", failing)
    with pytest.raises(KeyboardInterrupt):
        gram(over, memory=memory)
    first = []
    monkeypatch.setattr(Sharded, "_fill", lambda self, block, there, which: (first.append(there.start), fill(self, block, there, which))[1])
    np.testing.assert_allclose(gram(over, memory=memory), gram(rows), rtol=1e-13)
    assert 40 <= min(first) <= 60


def test_rows_that_are_no_columns_are_refused(bank, refused):
    class Product(Rows):
        size = 3
        __len__ = __getitem__ = blocks = take = columns = None

    sources = gather(bank).only(["lora"])
    object.__setattr__(sources.blocks["lora"], "rows", Product())
    with refused("Product", "lora"):
        sharded(sources)


# ------------------------------------------------------------------ several processes, played by threads
class Hosts:
    """Threads that are the processes of a job: each has its number, and what they exchange goes over a barrier."""

    def __init__(self, monkeypatch, count, each=1):
        self.count, self.here, self.barrier, self.sent = count, threading.local(), threading.Barrier(count), [None] * count
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda *_: self.here.number)
        monkeypatch.setattr(module, "_gathered", self.gathered)
        self.devices = [Device(p, "tpu") for p in range(count) for _ in range(each)]

    def gathered(self, own):
        self.sent[self.here.number] = np.array(own)
        self.barrier.wait(10)
        together = np.stack(self.sent)
        self.barrier.wait(10)
        return together

    def run(self, work):
        """What `work` of each process gave or raised."""
        results = [None] * self.count

        def one(number):
            self.here.number = number
            try:
                results[number] = work(number)
            except Exception as error:
                results[number] = error
                if not isinstance(error, InputError):
                    self.barrier.abort()

        threads = [threading.Thread(target=one, args=(number,)) for number in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results


@pytest.mark.parametrize(("count", "size"), [(2, D), (3, D), (3, 2)])
def test_processes_share_the_columns_and_all_have_all(rows, monkeypatch, count, size):
    """On hosts of devices without float64, where the processors do the arithmetic; the last case has a process without a column."""
    rows, hosts = [row[:size] for row in rows], Hosts(monkeypatch, count)
    monkeypatch.setattr(module, "BAND", 8 * 5 * count)  # a few numbers at a time
    read = [set() for _ in range(count)]
    fill = Sharded._fill

    def noted(self, block, there, which):
        read[self.number].update(range(there.start, there.stop))
        fill(self, block, there, which)

    monkeypatch.setattr(Sharded, "_fill", noted)

    def work(number):
        over = Sharded.of(Stored(rows), hosts.devices)
        over.number = number
        return all_of(over, memory=4 * 2 * 8 * N * 10, shift=number)

    results = hosts.run(work)
    expected = all_of(Stored(rows))
    for found in results:
        same(found, expected)
        for ours, first in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(ours, first)  # the same bits in each
    assert sorted(i for part in read for i in part) == list(range(size))
    assert max(map(len, read)) <= -(-size // count)


def test_a_process_with_more_devices_reads_more(rows, monkeypatch):
    hosts = Hosts(monkeypatch, 2)
    hosts.here.number = 1
    over = Sharded(rows, devices=[*hosts.devices, hosts.devices[1]])
    assert over._shares == [slice(0, 33), slice(33, 101)]


def test_one_process_refuses_and_all_do(tmp_path, monkeypatch):
    """Each reads some of the files for their checksums: the one that finds the altered file tells the others."""
    bank, hosts = stored_bank(tmp_path / "bank"), Hosts(monkeypatch, 2)
    path = bank.file("lora", "task1", 1)
    spoil(path)
    results = hosts.run(lambda _: gram(Sharded(bank.rows("lora", bank.pairs()), devices=hosts.devices)))
    assert all(isinstance(error, InputError) for error in results), results
    assert len({str(error) for error in results}) == 1
    assert "task1.1" in str(results[0])


def test_processes_with_different_rows_are_refused(rows, monkeypatch):
    hosts = Hosts(monkeypatch, 2)
    results = hosts.run(lambda number: gram(Sharded([row + number for row in rows], devices=hosts.devices)))
    assert all(isinstance(error, InputError) and "same solutions" in str(error) for error in results), results


def test_each_process_keeps_a_state_of_its_own(rows, monkeypatch, tmp_path):
    hosts = Hosts(monkeypatch, 2)
    work = lambda _: gram(Sharded(rows, state=tmp_path / "x.gram", devices=hosts.devices))  # noqa: E731
    first = hosts.run(work)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.gram.0of2", "x.gram.1of2"]
    monkeypatch.setattr(Sharded, "_fill", None)  # nothing is read again
    for again in hosts.run(work):
        np.testing.assert_array_equal(again, first[0])


# ------------------------------------------------------------------ real devices, real processes
def jobs(folder: Path, processes: int, devices: int):
    """What each process of a job found, and its subspace."""
    bank, out = stored_bank(folder / "bank"), folder / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("sharded_job.py")
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = [subprocess.Popen([sys.executable, str(script), *map(str, (p, processes, port, devices, bank.path, out))], env=paths,
                                stderr=subprocess.PIPE) for p in range(processes)]
    for process in running:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said.decode()[-2000:]
    return [(dict(np.load(out / str(p) / "found.npz")), Subspace.load(out / str(p))) for p in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 4)])
def test_devices_and_processes_find_the_same_subspace(tmp_path, processes, devices):
    results = jobs(tmp_path, processes, devices)
    bank = stored_bank(tmp_path / "again")
    expected, rows = joint_svd(bank, k=3), Stored(bank.rows("lora", bank.pairs()))
    rng, shares = np.random.default_rng(0), []
    coefficients, directions = rng.standard_normal((2, len(rows))), rng.standard_normal((2, rows.size))
    for found, space in results:
        assert found["devices"] == 8
        np.testing.assert_allclose(space.codes, expected.codes, atol=1e-6)
        for name in ("mean", "basis"):
            np.testing.assert_allclose(getattr(space.part("lora"), name), getattr(expected.part("lora"), name), atol=1e-6)
        assert found["gram"].dtype == np.float64
        np.testing.assert_allclose(found["gram"], gram(rows), rtol=1e-13)
        np.testing.assert_allclose(found["combined"], combine(coefficients, rows), atol=1e-5)
        np.testing.assert_allclose(found["products"], products(directions, rows), rtol=1e-12, atol=1e-12)
        part = expected.part("lora")
        np.testing.assert_allclose(found["unexplained"], unexplained(rows, part.mean, expected.codes, part.basis), rtol=1e-5)
        np.testing.assert_array_equal(found["gram"], results[0][0]["gram"])
        np.testing.assert_array_equal(space.part("lora").basis, results[0][1].part("lora").basis)
        shares.append(found["read"])
    np.testing.assert_array_equal(np.concatenate(shares), np.arange(rows.size))  # every column by one process
    assert len(shares) == processes
    if processes > 1:
        texts = {(tmp_path / "out" / str(p) / "refused").read_text() for p in range(processes)}
        assert len(texts) == 1
        assert "task1.0" in texts.pop()
    names = sorted(path.name for path in (tmp_path / "out" / "state").iterdir())
    assert names == (["lora.gram"] if processes == 1 else ["lora.gram.0of2", "lora.gram.1of2"])


def test_the_job_goes_on_from_the_states_of_devices(bank, tmp_path):
    """`resumable` and `sharded` in either order."""
    plain = joint_svd(bank, k=3)
    for sources in (resumable(sharded(bank), tmp_path / "a"), sharded(resumable(gather(bank), tmp_path / "b"))):
        np.testing.assert_allclose(joint_svd(sources, k=3).codes, plain.codes, atol=1e-5)
    for folder in ("a", "b"):
        assert len(list((tmp_path / folder).iterdir())) == 3
