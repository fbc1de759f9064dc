"""Every study file that comes with the package is read, and says what it should."""

from pathlib import Path

import deltaspace
import pytest
from deltaspace.kinds import KINDS, experiment_of
from deltaspace.settings import read_toml
from deltaspace.study_file import read_study

EVERY = sorted(Path(deltaspace.__file__).parent.glob("**/*.toml"))
FILES = [path for path in EVERY if "kind" not in read_toml(path)]


@pytest.mark.parametrize("path", sorted(set(EVERY) - set(FILES)), ids=lambda path: path.stem)
def test_a_shipped_experiment_is_one_that_can_run(path, tmp_path):
    assert callable(experiment_of(read_toml(path), tmp_path, None).run)


def test_every_kind_of_experiment_has_a_study_file():
    assert {read_toml(path)["kind"] for path in set(EVERY) - set(FILES)} == set(KINDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_study_is_one_that_can_run(path):
    study = read_study(path)
    named = [*study.tasks.sources, *study.tasks.dev, *study.tasks.unseen]
    assert len(named) == len(set(named))
    assert study.tasks.folder == "gym" or (study.tasks.sources and study.tasks.unseen)
    assert [config.label for config in study.delta_types()] == list(study.types)
    assert study.decomposition.tables in study.decomposition.k
    every = {"mean_only", "random_basis", "shuffled", "best_source"}
    wanted = every - {"shuffled"} if len(study.tasks.sources) == 1 else every  # of one task there is nothing to pair wrongly
    assert set(study.decomposition.controls) - {"fastfood"} == wanted


def test_the_papers_settings():
    """60 tasks at k = 100 and six single tasks at k = 4, each with the unseen tasks of its table; Yi et al. 2022, section 4."""
    studies = {path.stem: read_study(path) for path in FILES}
    multi = studies["paper_multi_task"]
    assert (len(multi.tasks.sources), len(multi.tasks.unseen), multi.decomposition.tables) == (60, 9, 100)
    singles = [study for name, study in studies.items() if name.startswith("paper_single")]
    assert len(singles) == 6
    assert {study.decomposition.tables for study in singles} == {4}
    assert sum(len(study.tasks.unseen) for study in singles) == 11
