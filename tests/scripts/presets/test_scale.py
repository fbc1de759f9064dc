"""The power of scale: what is drawn in a type's place, convergence, what is told, the study as a user runs it."""

import json

import pytest
import toy
from deltaspace import trials
from deltaspace.__main__ import main
from deltaspace.presets.scale import RANDOM, TENSORS, USUAL, Scale, converged
from deltaspace.presets.scale_page import page, summarised

import deltas
from deltas.tuning import tune

STUDY = """kind = "scale"
backbones = ["{backbone}"]
tasks = ["{tasks}"]
names = ["has_ba"]
types = ["lora:rank=2"]
selections = 1
seeds = 1
steps = [2]
batch_size = 4
max_input = 12
dev_rows = 8
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    from test_commands import write_tasks

    root = tmp_path_factory.mktemp("scale")
    encoder = toy.write_folder(root / "bert", "bert", num_hidden_layers=1)
    (root / "study.toml").write_text(STUDY.format(backbone=encoder, tasks=write_tasks(root / "tasks")))
    return root / "study.toml"


def test_what_is_drawn_has_as_many_parameters(backbone, tmp_path):
    places = deltas.sites(backbone.module)
    settings = Scale(out=tmp_path, selections=2)
    for config in (deltas.LoRA(rank=2), deltas.Adapter(bottleneck=3, bias=True, sites=("ff",))):
        lines = list(settings.selected(backbone, config, ()))
        assert [line[1:3] for line in lines] == [(USUAL, 0), (RANDOM, 0), (RANDOM, 1), (TENSORS, 0), (TENSORS, 1)]
        own = deltas.Attached.of(backbone, config).layout.size
        for _, selection, _, drawn in lines[1:]:
            assert drawn.budget == own
            assert {group.kind for group in drawn.taken(places)} == {config.name if selection == RANDOM else "tensor"}
            assert own / 2 < drawn.realised(places) <= own  # what fits of a toy's few groups
        assert len({line[3].label for line in lines}) == 5


def test_convergence_by_hand():
    looks = [{"step": 10, "dev_score": 0.5}, {"step": 20, "dev_score": 0.88}, {"step": 30, "dev_score": 0.9}, {"step": 40, "dev_score": 0.7}]
    assert converged(looks, 0.5, 0.9) == 20  # 0.5 + 0.9 · 0.4 = 0.86
    assert converged(looks, 0.5, 1.0) == 30
    assert converged(looks, 0.9, 0.9) is None
    assert converged([], 0.5, 0.9) is None


def rows_of(scores):
    """{backbone: {selection: (score, steps)}}, of two tasks whose chance is 0.5."""
    rows = [{"backbone": name, "task": task, "control": control, "score": 0.5} for name in scores for task in "ab"
            for control in ("chance", "zero_shot")]
    for name, by in scores.items():
        for selection, (score, steps) in by.items():
            rows += [{"backbone": name, "method": "lora", "selection": selection, "key": 0, "task": task, "seed": seed, "control": "",
                      "parameters": 10, "score": score, "converged": steps} for task in "ab" for seed in (0, 1)]
    return rows


def test_what_is_told_of_scale():
    sizes = {"large": 100, "small": 10}
    rows = rows_of({"large": {USUAL: (0.9, 10), RANDOM: (0.9, 10), TENSORS: (0.8, 10)},
                    "small": {USUAL: (0.7, 20), RANDOM: (0.6, 20), TENSORS: (0.5, None)}})
    cells = summarised(rows, sizes)
    assert [(c["backbone"], c["selection"]) for c in cells][:2] == [("small", USUAL), ("small", RANDOM)]
    assert cells[0]["score"]["value"] == pytest.approx(0.4)  # (0.7 − 0.5) / (1 − 0.5)
    assert (cells[2]["never"], cells[2]["converged"]["value"], cells[2]["bare"]) == (4, None, 0.0)
    told = page(cells, sizes, 0.9)
    assert told.headline.verdict == "for"
    assert "3 of 3 methods have a better score" in told.headline.text
    assert "2 of 2 methods have fewer steps" in told.findings[0].text
    worse = page(summarised(rows_of({"large": {USUAL: (0.6, 10)} | dict.fromkeys((RANDOM, TENSORS), (0.6, 10)),
                                     "small": dict.fromkeys((USUAL, RANDOM, TENSORS), (0.9, 10))}), sizes), sizes, 0.9)
    assert worse.headline.verdict == "against"
    assert page(summarised([row for row in rows if row["backbone"] == "small"], {"small": 10}), {"small": 10}, 0.9).headline.verdict == "open"


def test_a_killed_study_goes_on(file, tmp_path, monkeypatch):
    begun, out = [], tmp_path / "out"

    def counting(attached, jobs, *args, **kwargs):
        begun.append(attached.label)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return tune(attached, jobs, *args, **kwargs)

    monkeypatch.setattr(trials, "tune", counting)
    assert main(["study", str(file), "--out", str(out)]) == 130
    assert main(["study", str(file), "--out", str(out)]) == 0
    assert begun == ["lora", "lora-sites0", "lora-sites0", "lora-tensors0"]
    told = json.loads((out / "summary.json").read_text())
    assert [cell["selection"] for cell in told["cells"]] == [USUAL, RANDOM, TENSORS]
    assert (out / "figures" / "scale.png").stat().st_size > 1000
    assert "lora,random sites,0,has_ba" in (out / "results.csv").read_text()


@pytest.mark.parametrize(("old", "new", "words"), [
    ("lora:rank=2", "ia3", ("lora and adapter", "ia3")), ("lora:rank=2", "adapter:bottleneck=2", ("leave others", "adapter")),
    ("steps = [2]", "steps = [2, 3]", ("steps", "one for each of 1")), ("selections = 1", "selections = 0", ("selections", "0")),
    ("dev_rows = 8", 'decode = ["generate"]', ("encoder", "generate")),
    ("dev_rows = 8", "part = 0.0", ("part", "0.0")), ("dev_rows = 8", 'exclude = ["sahred"]', ("sahred",)),
])
def test_bad_input(refuses, file, tmp_path, old, new, words):
    (tmp_path / "study.toml").write_text(file.read_text().replace(old, new))
    refuses(*words, args=["study", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
