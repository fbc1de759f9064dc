"""Backbones for foreign checkpoints, each read once."""

import json

import pytest
import toy

import deltas


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """(kind, changes as in a `Case`) → backbone."""
    found = {}

    def read(case):
        if case.backbone not in found:
            kind, changes = json.loads(case.backbone)
            found[case.backbone] = deltas.load_backbone(toy.write_folder(tmp_path_factory.mktemp(kind), kind, **changes))
        return found[case.backbone]

    return read
