"""The README keeps its word: the example runs as it stands, the tables are those of the kept results, every file that it names is there."""

import functools
import re
from pathlib import Path

import pytest

import deltas
import landscape
import subspace

README = Path(__file__).parent.parent / "README.md"


def test_example_runs(tmp_path, monkeypatch, capsys):
    """The lines of the README, on fewer tasks and steps than a reader would take."""
    code = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    few = deltas.Training(steps=4, evaluate_every=4, segment=2, dev_rows=8)
    whole = {name: getattr(module, name) for module, name in ((deltas, "gym"), (deltas, "train"), (landscape, "plane"),
                                                              (subspace, "joint_svd"), (subspace, "optimize"))}
    monkeypatch.setattr(deltas, "gym", lambda group: whole["gym"](group, rows=(32, 8, 8))[:5])
    monkeypatch.setattr(deltas, "train", functools.partial(whole["train"], training=few))
    monkeypatch.setattr(subspace, "joint_svd", lambda bank, k: whole["joint_svd"](bank, min(k, 3)))
    monkeypatch.setattr(subspace, "optimize", functools.partial(whole["optimize"], training=few))
    monkeypatch.setattr(landscape, "plane", functools.partial(whole["plane"], resolution=3))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert Path("plane.png").stat().st_size > 1000
    assert "mean_only" in capsys.readouterr().out


def test_tables_are_those_of_the_results(tmp_path):
    """Running the generator again changes nothing."""
    from deltaspace import readme

    copy = tmp_path / "README.md"
    copy.write_text(README.read_text())
    readme.write(copy)
    assert copy.read_text() == README.read_text()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text()))))
def test_linked_files_exist(link):
    assert (README.parent / link).exists()
