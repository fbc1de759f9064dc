"""The benchmarks behind two defaults and one figure of memory, on banks as small as can be."""

import json

import deltaspace.bench.full_memory as full_memory
import numpy as np
import pytest
from deltaspace.bench.ridges import Ridges, foretold, shown

import deltas
from deltas import Bank
from deltas.bank import Solution
from subspace.sources import gather


def test_full_deltas_are_decomposed_saved_and_run(folder, tmp_path):
    out = tmp_path / "full.json"
    full_memory.FullMemory(backbone=folder, out=out, scratch=tmp_path, solutions=7, k=4, rank=3).run()
    found = json.loads(out.read_text())
    assert found["size"] == deltas.Attached.of(deltas.load_backbone(folder), deltas.Full()).layout.size
    assert found["energy"] == pytest.approx(found["energy_planted"], abs=0.01)
    assert list(found["stages"]) == ["load_backbone", "make_bank", "decompose", "save", "load_and_decode", "encode", "forward"]
    peaks = [stage["peak_gb"] for stage in found["stages"].values()]
    assert peaks == sorted(peaks)
    assert 0 < peaks[-1] <= found["peak_gb"]
    assert list(tmp_path.iterdir()) == [out]  # bank and subspace are gone


def test_a_decoded_point_that_does_not_run_is_no_result(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(full_memory, "SCALE", 0.0)
    with pytest.raises(Exception, match=r"differ from each other|does not run"):
        full_memory.FullMemory(backbone=folder, out=tmp_path / "full.json", scratch=tmp_path, solutions=4, k=2).run()
    assert not (tmp_path / "full.json").exists()


@pytest.fixture(scope="module")
def bank(backbone, tmp_path_factory):
    """Two types that share three factors."""
    bank, rng = Bank(tmp_path_factory.mktemp("ridges") / "bank", create=True), np.random.default_rng(0)
    factors = rng.standard_normal((14, 3))
    for config in (deltas.LoRA(rank=2), deltas.Adapter(bottleneck=2)):
        one = deltas.Attached.of(backbone, config)
        bank.add_start(one)
        x = factors @ rng.standard_normal((3, one.layout.size)) + 0.3 * rng.standard_normal((14, one.layout.size))
        for n, row in enumerate(x.astype(np.float32)):
            bank.add(Solution(task=f"t{n:02}", seed=0, config=config, layout=one.layout, theta0=one.theta0, vector=row,
                              backbone=backbone.fingerprint, theta0_fingerprint=one.theta0_fingerprint))
    return bank


def test_ridges(bank, tmp_path):
    out = tmp_path / "ridges.json"
    Ridges(bank=bank.path, out=out, ks=(2, 3), ridges=(0.1, 1.0), weights=(0.1, 1.0), folds=3, draws=2).run()
    found = json.loads(out.read_text())
    assert (found["sources"], found["types"]) == (14, ["adapter", "lora"])
    assert set(found["ridge"]) == set(found["weight"]) == {"0.1", "1.0"}
    assert found["ridge"]["0.1"]["across"]["3"] > 0.8
    assert found["weight"]["0.1"]["3"] > found["weight"]["1.0"]["3"]


def test_hidden_blocks_are_foretold_as_from_rows_written_out(bank):
    """Against the decoded points of a subspace fitted on what is shown."""
    from dataclasses import replace

    from subspace.missing import joint_svd_of_some

    sources, left, total = gather(bank), 0.0, 0.0
    kept = shown(sources.blocks, 14, 0)
    assert all(0 < len(rows) < 14 for rows in kept.values())
    assert set(np.concatenate(list(kept.values()))) == set(range(14))
    blocks = {label: replace(block, rows=block.rows.take(kept[label].tolist()), members=kept[label]) for label, block in sources.blocks.items()}
    space = joint_svd_of_some(replace(sources, blocks=blocks), 3, weight=0.1)
    for label, block in sources.blocks.items():
        x = np.stack([block.rows[n] for n in range(14)]).astype(np.float64)
        for n in np.setdiff1d(np.arange(14), kept[label]):
            part = space.parts[label]
            left += np.sum((x[n] - part.mean - space.codes[n] @ part.basis) ** 2)
            total += np.sum((x[n] - x[kept[label]].mean(0)) ** 2)
    assert foretold(sources, 3, 0.1, 1) == pytest.approx(1 - left / total, abs=1e-4)
