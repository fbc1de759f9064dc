"""Whole or absent."""

import json

import pytest

from deltas.files import read_json, replacing, sha256, write_json, write_text


def interrupted(path):
    path.write_text("half of the sec")
    raise KeyboardInterrupt


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        interrupted(temporary)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    write_text(path, "second ü")
    assert path.read_text(encoding="utf-8") == "second ü"


def test_a_place_that_cannot_be_written(tmp_path, refused):
    (tmp_path / "file").write_text("in the way")
    with refused("file"):
        write_text(tmp_path / "file" / "below.txt", "")
    with refused("No space left"), replacing(tmp_path / "full"):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "full").exists()


def test_json(tmp_path, refused):
    write_json(tmp_path / "a.json", {"θ": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == json.loads((tmp_path / "a.json").read_text()) == {"θ": [1, 2.5, None]}
    with refused("b.json"):
        read_json(tmp_path / "b.json")
    for content in (b"{", b"\xff\xfe", b""):
        (tmp_path / "c.json").write_bytes(content)
        with refused("c.json"):
            read_json(tmp_path / "c.json")


def test_sha256():
    assert sha256("ab", b"c") == sha256("abc") == "ba7816bf8f01cfea"
