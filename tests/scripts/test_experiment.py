"""Experiments beside the study of the subspace: their file, what is kept from run to run, their page."""

import dataclasses
import json
import sys
import types
from pathlib import Path

import pytest
from deltaspace import kinds
from deltaspace.experiment import Experiment
from deltaspace.page import Main, Page, Section, number, plain
from deltaspace.report_findings import Finding
from deltaspace.settings import parse_toml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
    """An experiment that adds numbers."""

    out: Path
    numbers: tuple[int, ...] = (1, 2)
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    word: str = "a \"quoted\" word"
    bank: Path | None = None

    def run(self) -> None:
        made = Experiment(self.out, "toy", self)
        total = made.kept("sum", self.numbers, lambda: count(self.numbers))
        main = Main(heads=["what", "sum"], rows=[["all", number(total, [2.0, 4.0])]])
        section = Section(title="Parts", words=["<of> it"], tables=[plain(["n"], [[float(n)] for n in self.numbers])])
        page = Page(title="Sums", asked="How much?", headline=Finding("note", f"It is {total}."), main=main, sections=[section],
                    claims=[("more", "less", "unknown")], caveats=["none"], source="arithmetic")
        made.write([{"what": "all", "sum": total}], ("what", "sum", "seed"), {"total": total}, page)


CALLS = []


def count(numbers):
    CALLS.append(numbers)
    return sum(numbers)


@pytest.fixture
def toy_kind(monkeypatch):
    module = types.ModuleType("deltaspace.toy_kind")
    module.__dict__["Toy"] = Toy
    monkeypatch.setitem(sys.modules, "deltaspace.toy_kind", module)
    monkeypatch.setitem(kinds.KINDS, "toy", (".toy_kind", "Toy"))
    CALLS.clear()


@pytest.mark.usefixtures("toy_kind")
def test_a_study_file_of_a_kind_runs_writes_and_keeps(tmp_path):
    from deltaspace.__main__ import main

    file, out = tmp_path / "study.toml", tmp_path / "out"
    file.write_text('kind = "toy"\nnumbers = [1, 2]\nrates = { lora = 0.5 }\nbank = "a folder"\n')
    assert main(["study", str(file), "--out", str(out)]) == 0
    assert main(["study", str(file), "--out", str(out)]) == 0
    assert CALLS == [(1, 2)]  # kept
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["kind"], summary["total"], summary["headline"]) == ("toy", 3, "It is 3.")
    assert summary["table"]["rows"] == [["all", "3.00 [2.00, 4.00]"]]
    assert (out / "results.csv").read_text() == "what,sum,seed\nall,3,\n"
    page = (out / "report.html").read_text()
    assert all(text in page for text in ("How much?", "&lt;of&gt; it", "3.00 <small>[2.00, 4.00]", "unknown", "arithmetic"))
    again = kinds.experiment_of(parse_toml((out / "study.toml").read_text(), "it"), out, None)  # what was written is the same experiment
    assert again == Toy(out=out, numbers=(1, 2), rates={"lora": 0.5}, bank=Path("a folder"))
    file.write_text('kind = "toy"\nnumbers = [2, 2]\n')
    assert main(["study", str(file), "--out", str(out)]) == 0
    assert CALLS == [(1, 2), (2, 2)]  # other numbers are not taken from what was kept


@pytest.mark.usefixtures("toy_kind")
def test_bad_files_of_a_kind(tmp_path, refuses):
    file = tmp_path / "study.toml"
    for text, words in (('kind = "toys"', ("kind", "toy")), ('kind = "toy"\nnumber = [1]', ("'numbers'",)),
                        ('kind = "toy"\nout = "x"', ("--out",)), ('kind = "toy"\nnumbers = 3', ("toy.numbers", "brackets"))):
        file.write_text(text)
        refuses(*words, args=["study", str(file), "--out", str(tmp_path / "out")])
    refuses("combinability", args=["study", "combinabilty", "--out", str(tmp_path / "out")])
    refuses("no-such-study", args=["study", "no-such-study", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
