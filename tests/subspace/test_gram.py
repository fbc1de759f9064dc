import numpy as np
import pytest

from subspace.gram import centred, combine, gram, products, resumable, unexplained
from subspace.joint_svd import joint_svd
from subspace.rows import Stored
from subspace.sources import gather


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return [(5 + rng.standard_normal(1003)).astype(np.float32) for _ in range(7)]


@pytest.mark.parametrize("memory", [1, 8 * 7 * 100, 2**20])
def test_streaming_equals_dense(rows, memory):
    """Any size of block: one column, a part, more than all."""
    x = np.stack(rows).astype(np.float64)
    found = gram(rows, memory=memory)
    np.testing.assert_allclose(found, x @ x.T, rtol=1e-13)
    np.testing.assert_array_equal(found, found.T)
    coefficients = np.random.default_rng(1).standard_normal((3, 7))
    out = combine(coefficients, rows, memory=memory)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, coefficients @ x, rtol=1e-6, atol=1e-6)


def test_centring_equals_centred_rows(rows):
    x = np.stack(rows).astype(np.float64)
    x -= x.mean(0)
    np.testing.assert_allclose(centred(gram(rows)), x @ x.T, atol=1e-9)


def test_what_is_left(rows):
    x = np.stack(rows).astype(np.float64)
    codes, basis, mean = np.random.default_rng(2).standard_normal((7, 2)), x[:2] / 10, x.mean(0)
    left, total = unexplained(rows, mean, codes, basis, memory=8 * 7 * 100)
    assert left == pytest.approx(((x - mean - codes @ basis) ** 2).sum())
    assert total == pytest.approx(((x - mean) ** 2).sum())


def test_memory_mapped_files(rows, tmp_path):
    for n, row in enumerate(rows):
        row.tofile(tmp_path / str(n))
    mapped = [np.memmap(tmp_path / str(n), np.float32, "r") for n in range(7)]
    np.testing.assert_array_equal(gram(mapped), gram(rows))


def test_refusals(rows, refused):
    with refused("one length", "(1002,)"):
        gram([*rows, rows[0][:-1]])
    with refused("row 2", "NaN"):
        gram([*rows[:2], np.full(1003, np.nan, np.float32)])


def test_products_are_those_of_dense_matrices_and_give_the_codes_of_many(rows, bank):
    x, directions = np.stack(rows).astype(np.float64), np.random.default_rng(3).standard_normal((2, 1003))
    np.testing.assert_allclose(products(directions, rows, memory=8 * 7 * 100), x @ directions.T, rtol=1e-12)
    space = joint_svd(bank, k=3)
    part, vectors = space.part("lora"), bank.rows("lora", space.pairs)
    codes = products(part.encoder, vectors) - part.encoder.astype(np.float64) @ part.mean
    np.testing.assert_allclose(codes, space.encode("lora", part.theta0 + np.stack(vectors)), atol=1e-4)


def test_a_decomposition_goes_on_from_its_gram_matrices(bank, tmp_path, monkeypatch):
    """The second run reads no row for them, the third finds states of other rows and does without."""
    sources = gather(bank)
    first = joint_svd(resumable(sources, tmp_path), k=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.gram", "lora.gram", "prefix.gram"]
    passes = []
    read = Stored._read
    monkeypatch.setattr(Stored, "_read", lambda self, part, *args: (passes.append(part.start < part.stop), read(self, part, *args))[1])
    again = joint_svd(resumable(sources, tmp_path), k=4)
    np.testing.assert_array_equal(again.codes, first.codes)
    assert sum(passes) == 3  # to write out mean and basis, once a type
    fewer = joint_svd(resumable(sources.of(sources.pairs[1:]), tmp_path), k=4)
    np.testing.assert_array_equal(fewer.codes, joint_svd(sources.of(sources.pairs[1:]), k=4).codes)
