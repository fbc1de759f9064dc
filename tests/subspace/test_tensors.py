"""The file of arrays: what safetensors itself would read, mapped and not loaded, and refused where anything differs."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from subspace_fakes import planted

import subspace
from subspace import base, tensors
from subspace.tensors import checksum, open_tensors, write_tensors

ARRAYS = {"a": np.arange(6, dtype=np.float64).reshape(2, 3), "b": np.float32([1, 2, 3]), "half": np.float16([[1.5]]), "whole": np.int8([-1, 2]),
          "none": np.zeros((0, 4), np.float32), "one": np.int32(7)}


def same(found, given=ARRAYS):
    assert set(found) == set(given)
    for name, value in given.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[name], value)


def test_there_and_back_by_us_and_by_safetensors(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "PIECE", 7)  # no number's size: pieces are of bytes
    path = tmp_path / "file"
    write_tensors(path, ARRAYS, {"checksum": checksum(ARRAYS), "what": [1, {"é": None}]})
    header, found = open_tensors(path)
    assert header["what"] == [1, {"é": None}]
    same(found)
    same(load_file(path))
    once = path.read_bytes()
    write_tensors(path, dict(reversed(ARRAYS.items())), header)
    assert path.read_bytes() == once
    for array in found.values():
        assert not array.flags.writeable
        assert array.flags.aligned
    assert checksum({**ARRAYS, "b": np.float32([1, 2, 4])}) != header["checksum"]


def test_what_is_not_whole_is_refused(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, ARRAYS, {"checksum": checksum(ARRAYS)})
    whole = path.read_bytes()
    longer = whole[:8] + whole[8:].replace(b'"shape": [3]', b'"shape": [4]')
    for broken in (whole[:-1], whole + b"\0", whole[:-1] + bytes([whole[-1] ^ 1]), b"nothing", b"", whole[:20], longer):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"^it|^Expecting"):
            open_tensors(path)


def test_a_large_subspace_is_mapped_and_not_read(tmp_path, monkeypatch):
    """Saving and loading take memory far below the basis; forming the encoder takes as much again, and no more."""
    space = subspace.joint_svd(planted(["lora"]), 2)
    size, rng = 200_000, np.random.default_rng(0)
    large = replace(space.part("lora"), theta0=np.zeros(size, np.float32), mean=np.zeros(size, np.float32),
                    basis=rng.standard_normal((8, size), np.float32))
    space = replace(space, parts={"lora": large}, codes=np.zeros((16, 8), np.float32), grams={"lora": np.eye(16)})
    expected = np.linalg.pinv(large.basis.astype(np.float64)).T
    monkeypatch.setattr(tensors, "PIECE", 2**16)
    monkeypatch.setattr(base, "MEMORY", 2**20)
    tracemalloc.start()
    space.save(tmp_path)
    again = subspace.Subspace.load(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**20  # the basis has 6.4 MB
    encoder = again.part("lora").encoder
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20 + large.basis.nbytes
    tracemalloc.stop()
    np.testing.assert_allclose(encoder, expected, atol=1e-9)
    np.testing.assert_array_equal(again.part("lora").basis, large.basis)
    np.testing.assert_array_equal(again.grams["lora"], np.eye(16))
    again.save(tmp_path)  # over the file that it is mapped from
    np.testing.assert_array_equal(subspace.Subspace.load(tmp_path).part("lora").basis, large.basis)
