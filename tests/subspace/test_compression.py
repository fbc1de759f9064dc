"""Compression: the tolerance is kept by as few directions as can be, and what comes back says what it is."""

from dataclasses import replace

import numpy as np
import pytest
from small_spaces import READING, random_bank
from subspace_fakes import planted

import subspace
from deltas import Task
from deltas.tasks import Example
from subspace.coded import GROUP, Basis, Coded
from subspace.compression import FILE, Compressed, compress, decompress, scores_kept
from subspace.gram import gram
from subspace.rows import Stored
from subspace.sources import gather


def x_of(sources, label):
    rows = sources.blocks[label].rows
    return np.stack([np.asarray(rows[n]) for n in range(len(rows))]).astype(np.float64)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("tolerance", [0.3, 0.03])
def test_the_tolerance_is_kept_by_the_least_k(bank, tmp_path, tolerance, dtype):
    small, whole = compress(bank, tolerance, tmp_path, dtype=dtype), gather(bank)
    for label, share in small.shares.items():
        x, back = x_of(whole, label), x_of(small.sources, label)
        error = np.linalg.norm(x - back) / np.linalg.norm(x)
        assert error <= tolerance
        np.testing.assert_allclose(error, share.error, rtol=1e-3)
        own = np.linalg.norm(x - back, axis=1) / np.linalg.norm(x, axis=1)
        np.testing.assert_allclose(small.errors[label], own, rtol=1e-2, atol=1e-6)
        np.testing.assert_allclose(share.worst, own.max(), rtol=1e-2)
        s = np.linalg.svd(x, compute_uv=False)
        least = next(k for k in range(17) if np.linalg.norm(s[k:]) <= tolerance * np.linalg.norm(s))
        assert share.k == least if dtype == "float32" else least <= share.k <= least + 2
        np.testing.assert_array_equal(small.sources.blocks[label].theta0, bank.theta0(label))


def test_no_other_basis_of_that_size_is_closer_and_a_tolerance_a_type(bank, tmp_path):
    small = compress(bank, {"lora": 0.5, "adapter": 0.05, "prefix": 0.2}, tmp_path, dtype="float32")
    assert small.shares["lora"].k < small.shares["adapter"].k
    for label in small.shares:
        x = x_of(gather(bank), label)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        k = small.shares[label].k
        np.testing.assert_allclose(x_of(small.sources, label), (u[:, :k] * s[:k]) @ vt[:k], atol=1e-4)


def test_a_bank_of_few_directions_becomes_small(tmp_path):
    """Forty solutions of rank 4 of 2,000 numbers each: a tenth of the numbers, half of the bytes of each."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((40, 4)) @ rng.standard_normal((4, 2000))).astype(np.float32)
    given = gather(planted(["lora"]))
    block = replace(given.blocks["lora"], rows=Stored(list(rows)), members=np.arange(40), theta0=np.zeros(2000, np.float32))
    given = replace(given, pairs=tuple((f"t{n}", 0) for n in range(40)), blocks={"lora": block})
    full, half, eighth = (compress(given, 0.02, tmp_path / dtype, dtype=dtype) for dtype in ("float32", "float16", "int8"))
    assert [small.shares["lora"].k for small in (full, half, eighth)] == [4, 4, 4]
    assert full.bytes_before == 4 * 2000 * 41
    numbers = {"float32": 4, "float16": 2, "int8": 1}
    for small in (full, half, eighth):
        wanted = 4 * 2000 + 4 * 40 * 4 + numbers[small.width] * 4 * 2000
        assert wanted < small.bytes_after < wanted + 9000  # the header says all that there is to know
    assert "times smaller" in str(half)


def test_rows_in_blocks_and_some_of_them():
    rng = np.random.default_rng(0)
    basis, codes = rng.standard_normal((3, 2 * GROUP + 100)).astype(np.float32), rng.standard_normal((5, 3)).astype(np.float32)
    basis[:, :GROUP] *= 100  # groups have scales of their own
    for width, tolerance in (("float32", 1e-6), ("float16", 1e-3), ("int8", 2e-2)):
        rows = Coded(codes, Basis.of(basis, width))
        whole = np.stack([rows[n] for n in range(5)])
        for part in (slice(0, GROUP), slice(GROUP, None)):
            wanted = codes @ basis[:, part]
            assert np.linalg.norm(whole[:, part] - wanted) <= tolerance * np.linalg.norm(wanted)
        blocks = [(columns, block.copy()) for columns, block in rows.blocks(12 * 100 * 8)]
        assert len(blocks) > 10
        np.testing.assert_allclose(np.concatenate([block for _, block in blocks], axis=1), whole, rtol=1e-4, atol=1e-4)
        some = rows.take([4, 0]).columns([slice(5, 9), slice(GROUP - 1, GROUP + 2)])
        np.testing.assert_allclose(some[0], np.concatenate([whole[4, 5:9], whole[4, GROUP - 1 : GROUP + 2]]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gram(rows), whole.astype(np.float64) @ whole.T, rtol=1e-4)


def test_a_compressed_bank_can_be_decomposed_as_it_is(bank, tmp_path):
    small = compress(bank, 0.01, tmp_path, dtype="float32")
    space, original = subspace.joint_svd(small.sources, 3), subspace.joint_svd(bank, 3)
    assert space.pairs == original.pairs
    np.testing.assert_allclose(space.spectrum[:3], original.spectrum[:3], rtol=1e-3)
    np.testing.assert_allclose(space.codes, original.codes, atol=0.05)


def test_missing_solutions_stay_missing(bank, tmp_path):
    pairs = bank.pairs()
    partly = replace(bank, x={**bank.x, "lora": {p: x for p, x in bank.x["lora"].items() if p != pairs[3]}})
    small = compress(partly, 0.1, tmp_path)
    assert [small.shares[label].solutions for label in ("adapter", "lora", "prefix")] == [16, 15, 16]
    assert 3 not in small.sources.blocks["lora"].members


def test_solutions_that_are_all_their_start(bank, tmp_path):
    given = gather(bank, ["lora"])
    block = replace(given.blocks["lora"], rows=Stored([np.zeros(60, np.float32)] * 16))
    small = compress(replace(given, blocks={"lora": block}), 0.1, tmp_path)
    assert small.shares["lora"].k == 0
    assert not x_of(small.sources, "lora").any()


def test_a_bank_there_and_back(attached, backbone, tmp_path, refused):
    kinds = [attached[label] for label in ("adapter", "lora")]
    bank = random_bank(tmp_path / "bank", kinds)
    small = compress(bank, 0.05, tmp_path / "small")
    assert small.bytes_before == sum(f.stat().st_size for f in (tmp_path / "bank").rglob("*.safetensors"))
    again = decompress(tmp_path / "small", tmp_path / "again")
    assert (again.labels(), again.pairs(), again.fingerprint) == (bank.labels(), bank.pairs(), bank.fingerprint)
    for label in bank.labels():
        assert again.theta0_fingerprint(label) == bank.theta0_fingerprint(label)
        for row, (task, seed) in enumerate(bank.pairs()):
            old, new = bank.load(label, task, seed), again.load(label, task, seed)
            error = np.linalg.norm(new.vector - old.vector) / np.linalg.norm(old.vector)
            assert new.scores == {"original": {"test": seed / 10}}
            told = new.provenance["reconstruction"]
            assert (told["dtype"], told["k"]) == ("float16", small.shares[label].k)
            np.testing.assert_allclose([error, small.errors[label][row]], told["error"], rtol=1e-3)
    before = {f: f.read_bytes() for f in (tmp_path / "again").rglob("*.safetensors")}
    assert decompress(tmp_path / "small", tmp_path / "again").pairs() == bank.pairs()  # written again, to the same bytes
    assert all(f.read_bytes() == whole for f, whole in before.items())
    with refused("without the originals"):
        decompress(tmp_path / "small", tmp_path / "bank")

    task = Task(name="random", train=(Example("ba be", ("ba",)),), dev=(Example("ba be", ("ba",)),),
                test=tuple(Example(text, ("ba",)) for text in ("ba be", "di do", "fa fe ga")), metric="exact_match")
    lines = scores_kept(Compressed.load(tmp_path / "small"), bank, backbone, [task], reading=READING)
    assert [(line["label"], line["seed"]) for line in lines] == [(label, seed) for label in ("adapter", "lora") for seed in range(5)]
    assert {line["task"] for line in lines} == {"random"}
    assert all(0 <= line[which] <= 1 for line in lines for which in ("original", "reconstructed"))
    with refused("other"):
        scores_kept(small, bank, backbone, [replace(task, name="other")])


def test_refusals(bank, tmp_path, refused):
    with refused("float8"):
        compress(bank, 0.1, tmp_path, dtype="float8")
    for tolerance in (0.0, 1.0, {"adapter": 0.1}):
        with refused("tolerance"):
            compress(bank, tolerance, tmp_path)
    with refused("int8 can keep", "use float32"):
        compress(bank, 1e-4, tmp_path, dtype="int8")
    assert not (tmp_path / FILE).exists()
    with refused("got nothing there"):
        Compressed.load(tmp_path)
    compress(bank, 0.1, tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for broken in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b"nothing"):
        (tmp_path / FILE).write_bytes(broken)
        with refused("damaged or altered"):
            Compressed.load(tmp_path)
