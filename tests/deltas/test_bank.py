"""A folder of solutions: what is stored comes back, what was altered is refused."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltas import Attached, Bank, InputError, LoRA, Solution, attached_from
from deltas.bank import versions

NAME = "glue/sst-2 é.1"  # a slash, a blank, a dot, a letter beyond ASCII


def solution_of(attached, task="task", seed=0, **changes):
    vector = np.random.default_rng(seed).standard_normal(attached.layout.size).astype(np.float32)
    fields = {"task": task, "seed": seed, "config": attached.config, "layout": attached.layout, "vector": vector, "theta0": attached.theta0,
              "backbone": attached.backbone.fingerprint, "theta0_fingerprint": attached.theta0_fingerprint,
              "scores": {"metric": "accuracy", "dev": 0.1 + 0.2, "test": 1 / 3}, "provenance": {"step": 7, "history": [{"step": 7}]}}
    return Solution(**(fields | changes))


@pytest.fixture
def bank(tmp_path, attached):
    bank = Bank(tmp_path / "bank", create=True)
    for label in ("lora", "adapter"):
        bank.add_start(attached[label])
    return bank


def test_round_trip(bank, attached):
    one = solution_of(attached["lora"], NAME, 3)
    bank.add(one)
    back = Bank(bank.path).load("lora", NAME, 3)
    assert (back.task, back.seed, back.config, back.layout, back.scores) == (NAME, 3, one.config, one.layout, one.scores)
    assert (back.backbone, back.theta0_fingerprint, back.label) == (one.backbone, one.theta0_fingerprint, "lora")
    assert back.provenance == {**one.provenance, "versions": versions()}
    for ours, theirs in ((back.vector, one.vector), (back.theta0, one.theta0), (back.theta, one.theta0 + one.vector)):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs)
    assert bank.scores("lora", NAME, 3) == one.scores
    assert bank.has("lora", NAME, 3)
    assert not bank.has("lora", NAME, 4)
    assert not bank.has("adapter", NAME, 3)


def test_rows_stay_in_their_files(bank, attached):
    for seed in range(2):
        bank.add(solution_of(attached["lora"], seed=seed))
    rows, vector = bank.rows("lora", [("task", 1), ("task", 0)]), solution_of(attached["lora"], seed=1).vector
    assert [(row.path, row.shape, row.dtype) for row in rows] == [
        (bank.file("lora", "task", seed), vector.shape, vector.dtype) for seed in (1, 0)]
    np.testing.assert_array_equal(rows[0], vector)
    np.testing.assert_array_equal(rows[0][3:7], vector[3:7])
    np.testing.assert_array_equal(rows[0][::-2], vector[::-2])
    assert rows[0][-1] == vector[-1]
    np.testing.assert_array_equal(np.stack(rows), np.stack([vector, solution_of(attached["lora"], seed=0).vector]))


def test_the_file_is_plain_safetensors_and_the_same_every_time(bank, attached):
    from safetensors import safe_open

    one, path = solution_of(attached["lora"]), bank.file("lora", "task", 0)
    bank.add(one)
    first = path.read_bytes()
    bank.add(one)
    assert path.read_bytes() == first
    with safe_open(path, framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("vector"), one.vector)
        header = {name: json.loads(value) for name, value in file.metadata().items()}
    assert (header["task"], header["seed"], header["type"]) == ("task", 0, json.loads(json.dumps(one.config.to_json())))
    text = first[8 : 8 + int.from_bytes(first[:8], "little")].decode()
    names = list(json.loads(text)["__metadata__"])
    assert names == sorted(names)  # a fixed order: two runs write the same bytes


def test_what_is_in_the_folder_is_in_the_bank(bank, attached):
    assert bank.labels() == ["adapter", "lora"]
    assert bank.pairs() == []
    for label, pairs in (("lora", [("b", 10), ("b", 2), ("a", 0), (NAME, 1)]), ("adapter", [("b", 2), (NAME, 1), ("c", 0)])):
        for task, seed in pairs:
            bank.add(solution_of(attached[label], task, seed))
    folder = bank.file("lora", "b", 2).parent
    (folder / ".b.5.safetensors.77.part").write_text("half")  # what a killed process leaves
    (folder / ".hidden.5.safetensors").write_text("")
    assert bank.pairs() == [("b", 2), (NAME, 1)]
    assert bank.pairs(["lora"]) == [("a", 0), ("b", 2), ("b", 10), (NAME, 1)]
    bank.file("lora", "b", 2).unlink()
    assert Bank(bank.path).pairs() == [(NAME, 1)]
    assert bank.fingerprint == attached["lora"].backbone.fingerprint
    np.testing.assert_array_equal(bank.theta0("lora"), attached["lora"].theta0)
    assert bank.theta0_fingerprint("lora") == attached["lora"].theta0_fingerprint


def test_failures_are_marked(bank):
    bank.add_failure("lora", NAME, 3, 41)
    assert bank.failed() == [{"label": "lora", "task": NAME, "seed": 3, "step": 41}]
    assert bank.has("lora", NAME, 3)
    assert not bank.has("adapter", NAME, 3)
    assert bank.pairs(["lora"]) == []


def test_a_bank_gives_the_attached_delta_back(bank, backbone, attached, refused):
    again = attached_from(bank, backbone, "lora")
    np.testing.assert_array_equal(again.theta0, attached["lora"].theta0)
    assert again.theta0_fingerprint == attached["lora"].theta0_fingerprint
    with refused("fingerprint", "other_model"):
        attached_from(bank, replace(backbone, fingerprint="0" * 16, name="other_model"), "lora")


# ------------------------------------------------------------------ refusals
def test_what_is_not_there(bank, tmp_path, refused):
    with refused("nothing"):
        Bank(tmp_path / "nothing")
    with refused("'prefix'", "adapter, lora"):
        bank.start("prefix")
    with refused("'prefix'"):
        bank.pairs(["lora", "prefix"])
    with refused("task.0"):
        bank.load("lora", "task", 0)
    with refused("empty"):
        _ = Bank(tmp_path / "new", create=True).fingerprint


def stranger_of(attached, what):
    """The attached delta as another backbone or another θ0 would have it."""
    if what == "backbone":
        return replace(attached, backbone=replace(attached.backbone, fingerprint="0" * 16))
    return replace(attached, theta0=attached.theta0 + 1)


@pytest.mark.parametrize("what", ["backbone", "θ0"])
def test_solutions_of_another_start_are_refused_by_name(bank, attached, refused, what):
    """When they are added, and when their file was copied in from another bank."""
    stranger = stranger_of(attached["lora"], what)
    solution, other = solution_of(stranger), Bank(bank.path.parent / "other", create=True)
    words = [what, stranger.backbone.fingerprint if what == "backbone" else stranger.theta0_fingerprint]
    with refused(*words, "task.0"):
        bank.add(solution)
    other.add_start(stranger)
    other.add(solution)
    path = bank.file("lora", "task", 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(other.file("lora", "task", 0).read_bytes())
    with refused(*words, str(path)):
        bank.load("lora", "task", 0)
    with refused(*words, str(path)):
        bank.rows("lora", [("task", 0)])


def test_another_start_under_the_same_label_is_refused(bank, backbone, attached, refused):
    bank.add_start(attached["lora"])  # the same one is fine
    with refused("lora", "θ0", str(bank.path)):
        bank.add_start(Attached.of(backbone, LoRA(rank=2), seed=5))
    with refused("lora", "backbone"):
        bank.add_start(stranger_of(attached["lora"], "backbone"))


def test_a_bank_of_two_backbones_is_refused(bank, attached, refused):
    bank.add_start(stranger_of(attached["prefix"], "backbone"))
    with refused("0" * 16, attached["lora"].backbone.fingerprint):
        _ = Bank(bank.path).fingerprint


@pytest.fixture
def stored(bank, attached):
    """(bank, path, bytes) of one stored solution."""
    bank.add(solution_of(attached["lora"]))
    path = bank.file("lora", "task", 0)
    return bank, path, path.read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_refused(stored, share):
    bank, path, whole = stored
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"expected .*task\.0\.safetensors.*; remove it"):
        bank.load("lora", "task", 0)
    with pytest.raises(InputError, match=r"expected .*task\.0\.safetensors.*; remove it"):
        bank.rows("lora", [("task", 0)])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
def test_every_altered_byte_of_the_vector_is_refused(stored, attached, share, value):
    bank, path, whole = stored
    spoiled, size = bytearray(whole), 4 * attached["lora"].layout.size
    spoiled[len(whole) - size + int(size * share)] ^= value
    path.write_bytes(spoiled)
    with pytest.raises(InputError, match=r"expected .*task\.0\.safetensors.*checksum"):
        bank.load("lora", "task", 0)


READINGS = {"all": np.asarray, "a part": lambda row: row[:2], "one number": lambda row: row[5],
            "in pieces": lambda row: [row.read(start, np.empty(min(50, len(row) - start), np.float32)) for start in range(0, len(row), 50)]}


@pytest.mark.parametrize("how", READINGS)
def test_rows_that_were_altered_are_refused_as_they_are_read(stored, refused, how):
    bank, path, whole = stored
    row = bank.rows("lora", [("task", 0)])[0]
    READINGS[how](row)  # sound
    path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    row = bank.rows("lora", [("task", 0)])[0]
    with refused("task.0.safetensors", "checksum"):
        READINGS[how](row)


def test_a_row_without_a_checksum_is_refused(stored, refused):
    """As `load` refuses it: a header that says none is not what was written."""
    bank, path, whole = stored
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    header["__metadata__"]["checksum"] = "null"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[-4 * header["vector"]["shape"][0] :])
    with refused("task.0.safetensors", "checksum"):
        np.asarray(bank.rows("lora", [("task", 0)])[0])


def test_rows_whose_file_changes_meanwhile_are_refused(stored, attached, refused):
    bank, path, _ = stored
    row = bank.rows("lora", [("task", 0)])[0]
    bank.add(replace(solution_of(attached["lora"]), scores={}))  # trained again: another file under the same name
    with refused("task.0.safetensors", "another"):
        np.asarray(row)
    row = bank.rows("lora", [("task", 0)])[0]
    path.unlink()
    with refused("task.0.safetensors", "No such file"):
        np.asarray(row)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
def test_an_altered_byte_of_the_header_never_gives_other_numbers(stored, attached, share, value):
    """A damaged header is one sentence, or the vector is what it was."""
    bank, path, whole = stored
    spoiled, size = bytearray(whole), 4 * attached["lora"].layout.size
    spoiled[int((len(whole) - size) * share)] ^= value
    path.write_bytes(spoiled)
    with contextlib.suppress(InputError):
        np.testing.assert_array_equal(bank.load("lora", "task", 0).vector, solution_of(attached["lora"]).vector)


def test_scores_edited_by_hand_are_refused(stored, refused):
    bank, path, whole = stored
    path.write_bytes(whole.replace(b'dev\\": 0.3', b'dev\\": 0.9', 1))
    assert path.read_bytes() != whole
    with refused(path.name, "checksum"):
        bank.load("lora", "task", 0)


@pytest.mark.parametrize("header", ["[]", "{}", '{"__metadata__": 3}', '{"__metadata__": {"task": "{"}}', '{"__metadata__": {}}',
                                    '{"__metadata__": {}, "vector": {}}', '{"__metadata__": {}, "vector": {"data_offsets": 1}}'])
def test_a_header_that_is_not_ours_is_refused(stored, refused, header):
    bank, path, _ = stored
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with refused(path.name, "damaged"):
        bank.load("lora", "task", 0)


def test_an_altered_start_is_refused(bank, refused):
    path = Path(bank.path / "theta0" / "lora.safetensors")
    whole = path.read_bytes()
    for spoiled in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], whole[:5], b""):
        path.write_bytes(spoiled)
        with refused("lora.safetensors"):
            Bank(bank.path).theta0("lora")
