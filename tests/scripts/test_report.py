"""The report says what the numbers say, whole or with parts missing, in one self-contained page."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from deltaspace import methods, report_data
from deltaspace.report import CONTROL_NAMES, write_report
from deltaspace.report_data import Number, read_study
from deltaspace.report_figures import draw_figures
from deltaspace.report_findings import findings, headline
from synthetic_study import entry, write_study

from deltas.errors import InputError


class Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    void = frozenset({"meta", "img", "circle", "line", "rect"})

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag


class Space:
    k = 16
    spectrum = np.linspace(5, 0.1, 20)
    null = np.linspace(2, 1, 20)
    pairs = tuple((f"{a}_{b}", s) for a in ("copy", "last") for b in ("past", "tag") for s in (0, 1))
    codes = np.random.default_rng(0).normal(size=(8, 16))


def page(folder: Path) -> str:
    text = write_report(folder).read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    assert not re.search(r"(?:src|href)=[\"']?https?:", text)  # nothing is fetched
    assert "$" not in re.sub(r"data:image/png;base64,[^\"]*|<script>.*</script>", "", text, flags=re.S)
    assert "nan" not in re.sub(r"<[^>]*>", " ", text.split("<script>")[0]).lower().split()
    return text


def test_whole_page(tmp_path):
    folder = write_study(tmp_path / "study")
    drawn = draw_figures(folder, space=Space(), categories={"copy_past": "copy"})
    assert {p.stem for p in drawn} == {"curve", "controls", "matrix", "spectrum", "codes", "plane-leading"}
    text = page(folder)
    assert text.count("data:image/png;base64,") == len(drawn)
    assert "Gym study &lt;synthetic&gt;" in text
    assert "<synthetic>" not in text
    assert "Transfer reaches 0.68 [0.63, 0.73] of the full delta on unseen tasks, while shuffled pairing falls to −0.30" in text
    parts = "What was found,From type to type,How many dimensions,Landscape,Tasks listed apart,Task by task,Settings,Caveats,How to cite"
    for part in parts.split(","):
        assert f"<h2>{part}</h2>" in text
    assert "in units of z²" in text
    assert "all_count_tag" in text
    assert "2210.13311" in text
    assert "2 min 51 s" in text


def test_methods_and_numbers_of_source_tasks_are_told(tmp_path):
    folder = write_study(tmp_path / "study")
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["methods"] = {name: {"16": {"optimization": entry(high), "transfer": entry(low)}}
                          for name, high, low in (("joint_svd", 0.84, 0.68), ("gcca@layer", 0.91, 0.5), ("joint_svd/12", 0.4, 0.15))}
    path.write_text(json.dumps(summary | {"source_tasks": 37}))
    assert "sources" in {drawn.stem for drawn in draw_figures(folder)}
    text = page(folder)
    table = text.split("<h2>Every method</h2>")[1].split("</section>")[0]
    assert table.index("joint_svd") < table.index("gcca@layer") < table.index("shuffled")
    assert "0.91 [0.86, 0.96]" in re.sub(r"<[^>]*>", "", table).replace("0.91[", "0.91 [")
    assert "joint_svd/12" not in table
    counts = re.sub(r"<[^>]*>", " ", text.split("<h2>How many source tasks</h2>")[1].split("</section>")[0])
    assert "12" in counts
    assert "37" in counts
    assert "0.15" in counts


def test_the_page_is_about_the_first_method_of_the_study(tmp_path):
    """Not about joint_svd, of which there are as many results; what it reaches is told beside."""
    folder = write_study(tmp_path / "study")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"study": {"k": 16, "method": "gcca@layer"}}))
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "results.csv").open("w") as file:
        to = csv.DictWriter(file, rows[0])
        to.writeheader()
        for row in rows:
            to.writerow(row | {"method": "gcca@layer"})
            if row["stage"] in ("optimization", "transfer") and not row["control"]:
                to.writerow(row | {"score": 0.2, "relative": 0.2 / 0.88, "normalised": row["normalised"] and 0.03})
    study = read_study(folder)
    assert (study.method, study.each) == ("gcca@layer", " a layer")
    text = re.sub(r"<[^>]*>", "", page(folder))
    assert "a space of 16 dimensions a layer (gcca@layer)" in text
    assert "Tuning 16 numbers a layer reaches most" in text
    assert re.search(r"joint_svd reaches 0\.03 .* in transfer: it falls behind gcca@layer", text)


def test_one_type_without_landscape_groups_or_figures(tmp_path):
    text = page(write_study(tmp_path / "study", types=("lora",), groups=False, planes=False))
    for part in ("From type to type", "Landscape", "Tasks listed apart"):
        assert f"<h2>{part}</h2>" not in text
    assert "with one delta type, whether types share a space was not asked" in text
    assert "wrongly" not in text


def test_bare_minimum(tmp_path):
    folder = write_study(tmp_path / "study", planes=False)
    (folder / "study.toml").unlink()
    (folder / "summary.json").write_text("{}")
    text = page(folder)
    assert "types share the space" in text  # computed from the rows alone


def test_empty_results(tmp_path):
    folder = write_study(tmp_path / "study", planes=False)
    (folder / "summary.json").write_text("{}")
    (folder / "results.csv").write_text((folder / "results.csv").read_text().splitlines()[0] + "\n")
    assert draw_figures(folder) == []
    assert "stays open" in page(folder)


@pytest.mark.parametrize(
    ("transfer", "shuffled", "verdict", "words"),
    [
        (0.68, -0.3, "for", "falls to −0.30"),
        (0.68, 0.5, "for", "stays below it, at 0.50"),
        (0.68, 0.6, "against", "cannot be told apart from shuffled pairing"),  # pairs with prefix move 0.12 less
        (0.02, -0.3, "open", "not clearly above chance"),
        (0.1, 0.4, "against", "speaks against a shared space"),
    ],
)
def test_headline_follows_the_numbers(tmp_path, transfer, shuffled, verdict, words):
    found = headline(read_study(write_study(tmp_path / "s", transfer=transfer, shuffled=shuffled, planes=False)))
    assert found.verdict == verdict
    assert words in found.text


def test_headline_without_intervals_concludes_nothing(tmp_path):
    folder = write_study(tmp_path / "s", planes=False)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["controls"]["shuffled"]["transfer"]["normalised_interval"]
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = (folder / "results.csv").read_text().splitlines(keepends=True)
    (folder / "results.csv").write_text("".join(line for line in lines if ",shuffled," not in line))
    assert headline(read_study(folder)).verdict == "open"


def test_negative_findings_are_said(tmp_path):
    study = read_study(write_study(tmp_path / "s", optimization=0.1, transfer=0.0, planes=False))
    text = " ".join(f.text for f in findings(study, {"one": 0.0, "two": 0.0}) if f.verdict == "against")
    assert "little of what a full delta gains" in text
    assert "cannot be told apart from a random basis" in text
    assert re.search("Not above chance:.* lora → prefix", text)
    assert "On none of the 2 planes drawn is there a point where all types are near their best." in text


def test_controls_are_compared_task_by_task(tmp_path):
    """Also the best source, whose rows are of no stage."""
    study = read_study(write_study(tmp_path / "s", planes=False))
    texts = [f.text for f in findings(study) if f.verdict == "for"]
    for control in ("a random basis", "the best single source", "the mean of the source"):
        assert any(f"above {control}" in text and "task by task by" in text for text in texts), control


def test_what_is_near_chance_or_flat_supports_nothing(tmp_path):
    study = read_study(write_study(tmp_path / "s", optimization=0.02, transfer=0.0, planes=False))
    texts = {f.text: f.verdict for f in findings(study, {"one": 0.99})}
    assert [v for t, v in texts.items() if "neither is clearly above chance" in t] == ["note"]
    assert [v for t, v in texts.items() if "the scores hardly vary there" in t] == ["note"]


@pytest.mark.parametrize(("correlations", "verdict"), [((0.9, 0.8), "for"), ((0.9, 0.05), "open"), ((0.05, -0.2), "against")])
def test_likeness_of_the_types_is_told_against_permuted_tasks(tmp_path, correlations, verdict):
    folder = write_study(tmp_path / "s", planes=False)
    summary = json.loads((folder / "summary.json").read_text())
    summary["gram_correlation"] = {f"lora|{other}": {"correlation": value, "null_interval": [-0.1, 0.1]}
                                   for other, value in zip(("adapter", "prefix"), correlations, strict=True)}
    (folder / "summary.json").write_text(json.dumps(summary))
    (found,) = [f for f in findings(read_study(folder)) if f.text.startswith("Before any subspace")]
    assert found.verdict == verdict
    assert f"lora and adapter {correlations[0]:.2f} (permuted tasks: −0.10 to 0.10)" in found.text


def test_groups_are_reported_apart(tmp_path):
    study = read_study(write_study(tmp_path / "s", planes=False))
    text = " ".join(f.text for f in findings(study))
    assert "Unseen compositions that the backbone met, with their instruction, in its own training (4)" in text
    assert "Unseen compositions that it never met (4)" in text


def test_far_tasks_are_said_apart_and_not_counted(tmp_path):
    study = read_study(write_study(tmp_path / "s", planes=False))
    assert len(study.counted) == 8
    assert study.mean(study.select("optimization")).value == pytest.approx(0.84, abs=0.03)
    assert any(f.text.startswith("Far tasks, whose operation no source has (1): optimization 0.3") for f in findings(study))


def test_a_mean_counts_each_task_once_and_leaves_tasks_apart_out(tmp_path):
    study = read_study(write_study(tmp_path / "s", planes=False))
    rows = study.select("transfer")
    assert not {r.task for r in rows} & set(study.apart)
    tasks = {r.task for r in rows}
    chance = 0.18
    full = {(r.task, r.target): r.score for r in study.rows if r.control == "full"}
    gain, room = (np.mean([np.mean([value(r) for r in rows if r.task == t]) for t in tasks])
                  for value in (lambda r: r.score - chance, lambda r: full[r.task, r.target] - chance))
    expected = gain / room
    mean = study.mean(rows)
    assert mean.value == pytest.approx(expected)
    assert mean.low < mean.value < mean.high
    assert study.mean(rows) == mean  # seeded


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (Number(0.7, 0.6, 0.8), Number(0.5, 0.4, 0.59), "above"),
        (Number(0.7, 0.6, 0.8), Number(0.5, 0.4, 0.61), "same"),
        (Number(0.1, 0.0, 0.2), Number(0.5, 0.4, 0.6), "below"),
        (Number(0.1), Number(0.5, 0.4, 0.6), "unknown"),
    ],
)
def test_numbers_differ_when_intervals_are_apart(a, b, told):
    assert a.against(b) == told


def test_numbers_are_printed_with_a_true_minus():
    assert [str(n) for n in (Number(-0.304, -0.35, 0.0), Number(-0.001), Number())] == ["−0.30 [−0.35, 0.00]", "0.00", "–"]


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"no results\.csv"):
        write_report(tmp_path)
    folder = write_study(tmp_path / "s", planes=False)
    with (folder / "results.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    lines[3][9] = "many"
    (folder / "results.csv").write_text("\n".join(map(",".join, lines)))
    with pytest.raises(InputError, match="line 4"):
        write_report(folder)
    (folder / "results.csv").write_text("stage,method\n")
    with pytest.raises(InputError, match="columns"):
        write_report(folder)


def test_every_control_that_a_study_can_have_is_on_its_page():
    assert set(methods.CONTROLS) < set(report_data.CONTROLS) == set(CONTROL_NAMES)
