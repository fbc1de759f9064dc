"""What a decomposition's report says follows from the numbers, with parts missing too, in one self-contained page."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from deltaspace import decompose_report
from deltaspace.decompose_page import headline, write_page
from deltaspace.decompose_report import gauge, sections, tried, write
from test_report import Balanced

import subspace
from subspace.controls import derangements
from subspace.sources import gather

sys.path.append(str(Path(__file__).parent.parent / "subspace"))
from lora_sources import loras
from subspace_fakes import planted

QUICK = {"draws": 19, "permutations": 19, "maps": ("pca",)}


@pytest.fixture(scope="module")
def shared():
    return gather(planted(tasks=14, seeds=1, rank=3, noise=0.5))


@pytest.fixture(scope="module")
def strangers(shared):
    """The same solutions, the types paired wrongly: each has its structure, and none is shared."""
    turn = dict(zip(shared.labels, derangements(shared.pairs, 3, 0), strict=True))
    return replace(shared, blocks={label: replace(b, rows=b.rows.take(turn[label].tolist())) for label, b in shared.blocks.items()})


def page(folder: Path, space, found, manifest=()) -> str:
    text = write_page(folder, space, found, manifest).read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    assert not re.search(r"(?:src|href)=[\"']?https?:", text)  # nothing is fetched
    words = re.sub(r"<[^>]*>", " ", re.sub(r"data:image/png;base64,[^\"]*", "", text.split("<script>")[0])).split()
    assert not {"nan", "None", "inf"} & set(words)
    return text


def test_everything_is_written(shared, tmp_path):
    space = subspace.joint_svd(shared, 3)
    left = {"path": "adapters/<odd>", "type": "lora", "task": "", "seed": 0, "size": None, "status": "left out", "reason": "rank 0 & more"}
    found = write(tmp_path, space, replace(shared, manifest=(left,)), categories={"task0": "one", "task1": "two"}, draws=19, permutations=19)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    names = {"spectra", "reconstruction", "angles", "agreement", "tasks", "map-pca", "map-tsne"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == names
    assert text.count("data:image/png;base64,") == len(names)
    trust = json.loads(json.dumps(found, allow_nan=False))["trust"]
    assert trust["suggested"] == {"Gaussian": 3, "permutation": 3, "held_out": 3}
    assert trust["held_out"]["method"] == "joint_svd"
    assert trust["sources"]["left_out"] == 1
    assert set(trust["types"]["pairs"]) == {"adapter|lora", "adapter|prefix", "lora|prefix"}
    assert len(trust["tasks"]["order"]) == 14
    for part in ("What was found", "How many directions", "Tasks that were held out", "How stable", "What is alike", "The tasks in z"):
        assert f"<h2>{part}</h2>" in text
    assert "adapters/&lt;odd&gt;" in text
    assert "rank 0 &amp; more" in text
    assert "the types share a space" in text


@pytest.mark.parametrize(("which", "verdict", "words"), [("shared", "for", "the types share a space"), ("strangers", "against", "no sign")])
def test_headline_follows_the_numbers(request, which, verdict, words):
    sources = request.getfixturevalue(which)
    space = subspace.joint_svd(sources, 3)
    found = sections(space, sources, **QUICK)
    first = headline(space, found)
    assert first.verdict == verdict, first.text
    assert words in first.text
    assert "k = 3" in first.text
    assert found["suggested"]["permutation"] == (3 if which == "shared" else 0)


def test_one_type_and_a_method_of_its_own(shared, tmp_path):
    alone = shared.only(["lora"])
    space = subspace.gcca(alone, 3)
    found = sections(space, alone, **QUICK)
    assert found["held_out"]["method"] == "gcca"
    assert set(found["suggested"]) == {"Gaussian", "held_out"}
    text = page(tmp_path, space, found)
    assert "whether types share a space was not asked" in text
    assert "there is one delta type" in text
    assert "wrongly" not in text


def test_what_few_tasks_do_not_allow_is_said(tmp_path):
    few = gather(planted(tasks=3, seeds=1))
    space = subspace.joint_svd(few, 2)
    found = sections(space, few, draws=5, permutations=5)
    assert "at least 4 tasks" in found["spectrum"]["skipped"]
    assert "at least 5 tasks" in found["types"]["skipped"]
    assert "at least 4" in found["maps"]["tsne"]["skipped"]
    json.dumps(found, allow_nan=False)
    assert decompose_report.draw(tmp_path / "figures", space, found, {}) != []
    assert "at least 5 tasks" in page(tmp_path, space, found)
    two = gather(planted(tasks=2, seeds=1))
    space = subspace.joint_svd(two, 1)
    found = sections(space, two, draws=5)
    assert headline(space, found).verdict == "open"
    assert "at least 3 tasks" in page(tmp_path, space, found)


def test_missing_solutions_controls_and_many_sources(shared, tmp_path, monkeypatch):
    lacking = replace(shared, blocks={**shared.blocks, "lora": shared.of(shared.pairs[:10]).blocks["lora"]})
    monkeypatch.setattr(decompose_report, "LIMIT", 8)
    space = subspace.mean_only(shared, 2)
    found = sections(space, lacking, maps=("pca", "tsne"), draws=5, permutations=5)
    assert found["sources"]["used_here"] == found["sources"]["tasks_here"] == 8
    assert set(found["tasks"]["names"]) <= {task for task, _ in shared.pairs[:10]}
    text = page(tmp_path, space, found)
    assert "The tests below are of 8 sources" in text
    assert "mean_only was not fitted again" in text
    decompose_report.draw(tmp_path / "figures", space, found, {})


def test_seeds_are_compared_where_there_are_two(tmp_path):
    bank = planted(tasks=8, seeds=2)
    found = sections(subspace.joint_svd(bank, 3), gather(bank), **QUICK)
    overlap = found["stability"]["seeds"]["types"]["lora"]["overlap"]
    assert overlap["found"] > 0.9 > overlap["random"]


def test_gauges_are_said_and_measured(shared):
    plain, turned = loras(tasks=9), loras(tasks=9, gauges=True)
    found = [gauge(sources) for sources in (plain, turned)]
    for entry in found:
        assert entry["applies"]
        assert "(A G⁻¹)(G B) = A B" in entry["sentence"]
        assert "--space product" in entry["sentence"]
    first, second = (entry["product"]["lora"] for entry in found)
    assert first["mean_in_products"] == pytest.approx(second["mean_in_products"], abs=1e-4)  # products do not know the gauge
    assert second["mean_difference"] > 0.1
    for sources in (replace(turned, align="procrustes"), subspace.in_product_space(turned)):
        assert gauge(sources) == {"applies": False, "types": {}, "sentence": "", "product": {}}
    without = gauge(shared)["product"]["lora"]
    assert "factors A and B" in without["skipped"]


def test_a_space_of_more_coordinates_than_sources(tmp_path):
    sources = loras(tasks=9, sites=("encoder.0.q", "encoder.1.q", "encoder.2.q"))
    space = subspace.by_group(subspace.joint_svd, sources, 4, granularity="layer")
    assert space.k == 12 > len(sources.pairs)
    found = sections(space, sources, **QUICK)
    assert headline(space, found).text.startswith(f"With k = {found['held_out']['recommended']['k']}, ")
    decompose_report.draw(tmp_path / "figures", space, found, {})
    assert "one z for the whole delta" in page(tmp_path, space, found)


@pytest.mark.parametrize(("k", "words"), [(2, "k = 2 is the smallest"), (0, "no k can be told from 0, the mean of the other tasks")])
def test_scores_of_held_out_tasks_are_told(tmp_path, k, words):
    sources = loras(tasks=9)
    space = subspace.joint_svd(sources, 2)
    means = [{"k": 0, "within": 0.1, "within_interval": [0.0, 0.2]}, {"k": 2, "within": 0.4, "within_interval": [0.3, 0.5]}]
    rows = [{"source": "lora", "target": "lora", "k": row["k"], "share": row["within"], "low": 0.0, "high": 0.5} for row in means]
    scores = {"means": means, "rows": rows, "control": [], "recommended": k, "apart": ["flat"], "tasks": 9, "zero_shot": -0.1, "lines": []}
    found = decompose_report.write(tmp_path, space, sources, scores=scores, **QUICK)["trust"]
    text = page(tmp_path, space, found)
    assert words in text
    assert "without any delta −0.10" in text
    assert "less than 0.1 above chance: flat" in text
    assert (tmp_path / "figures" / "scores.png").is_file()


def test_ks_that_are_tried():
    assert tried(3, 2) == [1, 2, 3]
    found = tried(60, 17)
    assert found[:8] == list(range(1, 9))
    assert found[-1] == 60
    assert 17 in found
    assert len(found) < 20
    assert tried(5, 9) == [1, 2, 3, 4, 5]
