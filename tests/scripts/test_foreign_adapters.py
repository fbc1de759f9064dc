"""PEFT's own adapters, decomposed without the backbone, exported and loaded by PEFT again: the answers of our decoding.

What needs no PyTorch of this is in tests/subspace/test_project.py. The real MiniLM is under DELTASPACE_REAL.
"""

import os
from pathlib import Path

import pytest
import toy

from scripts.bench.foreign_adapters import compare

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::FutureWarning")]
REAL = Path(os.environ.get("DELTASPACE_REAL", "")) / "minilm"


@pytest.fixture(autouse=True)
def real_peft():
    pytest.importorskip("torch")
    pytest.importorskip("peft")


def check(found):
    assert found["effect"] > 0.01
    assert found["difference"] < 1e-4
    assert found["made_difference"] < 1e-4
    assert found["code_difference"] < 1e-3
    assert found["gauge_angle"] < 1e-4
    assert found["gauge_difference"] < 1e-4
    assert len({made["rank"] for made in found["adapters"]}) > 2
    assert len({tuple(made["targets"]) for made in found["adapters"]}) > 2


@pytest.mark.parametrize(("kind", "changes"), [("bert", {}), ("llama", {"num_hidden_layers": 1})], ids=["bert", "llama"])
def test_on_a_tiny_backbone(kind, changes, tmp_path):
    folder = toy.write_folder(tmp_path / "model", kind, **changes)
    check(compare(folder, tmp_path / "adapters", count=6, ranks=(1, 4), k=3, points=1, texts=["ba be bi bo", "de du ka ba be"]))


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "config.json").is_file(), reason="no DELTASPACE_REAL with minilm")
def test_on_minilm(tmp_path):
    found = compare(REAL, tmp_path, count=24, ranks=(2, 8), k=16, points=4)
    check(found)
    assert len(found["adapters"]) == 24
    assert min(found["missed_of_sources"]) > 0.01
