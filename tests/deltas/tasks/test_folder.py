"""Loading task folders: exact names, few-shot samples, metrics and labels, and every kind of bad input."""

import json
import os
from pathlib import Path

import pytest

from deltas.errors import InputError
from deltas.tasks import chance, load_tasks

TRAIN = "good film\tpositive\nbad film\tnegative\n" * 5


def write(folder: Path, name: str, sample: str = "", **splits: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    for split, text in ({"train": TRAIN, "dev": TRAIN, "test": TRAIN} | splits).items():
        (folder / name / f"{name}{sample}_{split}.tsv").write_bytes(text.encode())


def test_rows_are_read_as_they_stand(tmp_path):
    write(tmp_path, "t", train='\ufeffa "quoted\ttext\tfirst\t second \r\nline\u2028inside\tä\n', test="no newline at the end\tyes")
    (task,) = load_tasks(tmp_path)
    assert task.train[0].input == 'a "quoted'
    assert task.train[0].answers == ("text", "first", "second")
    assert task.train[1].input == "line\u2028inside"
    assert task.train[1].answers == ("ä",)
    assert task.test[0].answers == ("yes",)


def test_all_tasks_sorted_or_those_named_in_their_order(tmp_path):
    for name in ("b", "c", "a"):
        write(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert [t.name for t in load_tasks(tmp_path)] == ["a", "b", "c"]
    assert [t.name for t in load_tasks(tmp_path, ["c", "a"])] == ["c", "a"]


def test_names_are_exact(tmp_path):
    write(tmp_path, "tweet_eval-emotion")
    with pytest.raises(InputError, match="did you mean tweet_eval-emotion"):
        load_tasks(tmp_path, ["emotion"])
    write(tmp_path, "emotion", train="short\tjoy\n")
    (tmp_path / "emotion" / "tweet_eval-emotion_train.tsv").write_text(TRAIN)
    assert len(load_tasks(tmp_path, ["emotion"])[0].train) == 1


def test_few_shot_samples(tmp_path):
    write(tmp_path, "t", sample="_16_13", train="x\tthirteen\n")
    assert load_tasks(tmp_path)[0].train[0].answers == ("thirteen",)
    write(tmp_path, "t", sample="_16_100", train="x\thundred\n")
    with pytest.raises(InputError, match="16_100 or 16_13"):
        load_tasks(tmp_path)
    assert load_tasks(tmp_path, shots="16_100")[0].train[0].answers == ("hundred",)
    with pytest.raises(InputError, match="'32_1'"):
        load_tasks(tmp_path, shots="32_1")
    write(tmp_path, "t", train="x\tall\n")
    assert load_tasks(tmp_path)[0].train[0].answers == ("all",)


def test_metric_given_then_card_then_table_then_guess(tmp_path):
    write(tmp_path, "rotten_tomatoes")
    assert load_tasks(tmp_path)[0].metric == "classification_f1"
    (tmp_path / "rotten_tomatoes" / "task.json").write_text(json.dumps({"metric": "matthews", "category": "sentiment"}))
    (task,) = load_tasks(tmp_path)
    assert (task.metric, task.category, task.labels) == ("matthews", "sentiment", ("negative", "positive"))
    assert load_tasks(tmp_path, metrics={"rotten_tomatoes": "accuracy"})[0].metric == "accuracy"
    write(tmp_path, "new")
    write(tmp_path, "free", train="2 plus 2\t4\n")
    assert {t.name: t.metric for t in load_tasks(tmp_path, ["new", "free"])} == {"new": "accuracy", "free": "exact_match"}


def test_labels_from_the_card(tmp_path):
    write(tmp_path, "t")
    (tmp_path / "t" / "task.json").write_text('{"labels": ["positive", "negative", "mixed"]}')
    assert load_tasks(tmp_path)[0].labels == ("positive", "negative", "mixed")


def test_a_metric_of_classes_lifts_the_cap_on_labels(tmp_path):
    text = "".join(f"x\tclass {i}\n" for i in range(30)) * 5
    write(tmp_path, "t", train=text, dev=text, test=text)
    assert load_tasks(tmp_path)[0].labels is None
    (task,) = load_tasks(tmp_path, metrics={"t": "classification_f1"})
    assert task.labels is not None
    assert len(task.labels) == 30


@pytest.mark.parametrize(("splits", "message"), [
    ({"dev": "fine\tyes\nno tab here\n"}, r"t_dev\.tsv line 2"),
    ({"train": "fine\tyes\n\n"}, r"without a tab in .*t_train\.tsv line 2"),
    ({"train": "fine\tyes\nempty\t \n"}, r"empty one in .*t_train\.tsv line 2"),
    ({"test": "two\tyes\t\n"}, r"t_test\.tsv line 1"),
    ({"test": ""}, r"rows in .*t_test\.tsv"),
])
def test_bad_rows_name_file_and_line(tmp_path, splits, message):
    write(tmp_path, "t", **splits)
    with pytest.raises(InputError, match=message):
        load_tasks(tmp_path)


def test_other_bytes_name_file_and_line(tmp_path):
    write(tmp_path, "t")
    (tmp_path / "t" / "t_train.tsv").write_bytes(b"fine\tyes\ncaf\xe9\tyes\n")
    with pytest.raises(InputError, match=r"UTF-8 .*t_train\.tsv line 2"):
        load_tasks(tmp_path)


def test_missing_things(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_tasks(tmp_path / "absent")
    with pytest.raises(InputError, match="sub-folders"):
        load_tasks(tmp_path)
    write(tmp_path, "t")
    with pytest.raises(InputError, match="'u'"):
        load_tasks(tmp_path, ["u"])
    with pytest.raises(InputError, match="'u'"):
        load_tasks(tmp_path, metrics={"u": "accuracy"})
    with pytest.raises(InputError, match="twice"):
        load_tasks(tmp_path, ["t", "t"])
    (tmp_path / "t" / "t_dev.tsv").unlink()
    with pytest.raises(InputError, match=r"t_dev\.tsv"):
        load_tasks(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.tsv").write_text(TRAIN)
    with pytest.raises(InputError, match=r"other_train\.tsv"):
        load_tasks(tmp_path, ["other"])


@pytest.mark.parametrize(("card", "message"), [
    ('{"metrics": "accuracy"}', "did you mean 'metric'"),
    ('{"metric": "f1"}', "among accuracy"),
    ('{"labels": "yes"}', "a list of words"),
    ('{"labels": ["positive"]}', "'negative'"),
    ('["accuracy"]', "JSON object"),
    ("{", "expected JSON"),
])
def test_bad_cards(tmp_path, card, message):
    write(tmp_path, "t")
    (tmp_path / "t" / "task.json").write_text(card)
    with pytest.raises(InputError, match=message):
        load_tasks(tmp_path)


@pytest.mark.skipif("DELTASPACE_REAL" not in os.environ, reason="DELTASPACE_REAL names no folder of real tasks")
def test_real_tasks():
    tasks = load_tasks(Path(os.environ["DELTASPACE_REAL"]) / "tasks")
    assert len(tasks) > 0
    assert all(0 <= chance(task, split) < 0.8 for task in tasks for split in ("dev", "test"))
