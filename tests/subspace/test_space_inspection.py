"""What an inspection says of a subspace is what is in its arrays."""

import json
from dataclasses import replace

import numpy as np
import pytest

import subspace
from deltas import LoRA
from deltas.inspection import inspect
from subspace.base import FILE
from subspace.inspection import directions


@pytest.fixture(scope="module")
def space(bank):
    return subspace.joint_svd(bank, 3)


def test_facts(space, bank):
    report = inspect(space)
    assert (report.method, report.k, report.align, report.backbone) == ("joint_svd", 3, "none", "b0")
    assert (report.sources, len(report.tasks), report.seeds) == (16, 8, (0, 1))
    sizes = {facts.label: (facts.size, facts.theta0, facts.encoder) for facts in report.types}
    assert sizes == {label: (len(bank.theta0(label)), f"start of {label}", "least squares") for label in bank.labels()}
    assert {facts.label: facts.energy for facts in report.types} == space.energy
    assert report.types[0].mean_norm == pytest.approx(np.linalg.norm(space.part(report.types[0].label).mean))


def test_spectrum_by_hand():
    first, second = directions(np.array([3.0, 1.0]), np.array([1.0, 1.0]))
    assert (first.energy, first.cumulative, first.noise) == (0.9, 0.9, 0.5)
    assert (second.value, second.energy, second.cumulative) == (1.0, 0.1, 1.0)
    assert directions(np.ones(1), np.zeros(0))[0].noise is None
    assert directions(np.zeros(0), np.zeros(0)) == ()


def test_what_is_drawn(space):
    report = inspect(space)
    lines = str(report).splitlines()
    assert len(report.spectrum) == len(space.spectrum) == 15
    assert report.spectrum[-1].cumulative == pytest.approx(1)
    (mark,) = [line for line in lines if line.endswith("← k")]
    assert mark.split()[0] == "3"
    (first,) = [line for line in lines if line.split()[:2] == ["1", f"{report.spectrum[0].energy:.4f}"]]
    assert "█" * 24 in first
    assert "and 9 more directions" in str(inspect(replace(space, spectrum=np.ones(41))))


def test_a_control_without_a_spectrum(bank):
    report = inspect(subspace.mean_only(bank, 2))
    assert report.spectrum == ()
    assert "no spectrum" in str(report)


def test_a_learned_encoder(space):
    rng = np.random.default_rng(0)
    part = space.part("lora")
    network = subspace.Network(*(rng.standard_normal(shape).astype(np.float32) for shape in ((3, len(part.theta0)), 3, (3, 3), 3)))
    learned = replace(space, parts={**space.parts, "lora": replace(part, network=network)}, history=[{"step": 1.0}], settings={"steps": 9})
    report = inspect(learned)
    assert {facts.label: facts.encoder for facts in report.types}["lora"] == "learned"
    assert (report.logged, report.settings) == (1, {"steps": 9})


def test_in_a_folder(space, tmp_path, refused):
    space.save(tmp_path)
    report = inspect(tmp_path)
    assert report == inspect(tmp_path / FILE)
    assert report == replace(inspect(space), path=str(tmp_path / FILE), nbytes=(tmp_path / FILE).stat().st_size)
    assert json.loads(json.dumps(report.to_json()))["spectrum"][0]["value"] == space.spectrum[0]
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-4])
    with refused(FILE, "damaged"):
        inspect(tmp_path)


def test_a_subspace_takes_no_types(space, refused):
    with refused("types for a backbone alone", "a subspace"):
        inspect(space, types=[LoRA()])
