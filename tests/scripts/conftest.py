"""How a command is seen to refuse."""

import re

import pytest
from deltaspace.__main__ import main


@pytest.fixture
def refuses(capsys):
    """The command ends with status 2 and one sentence that holds the given words."""

    def check(*words: str, args: list[str]) -> None:
        assert main(args) == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.match(r"deltaspace: expected .*, got .*; ", message), message
        for word in words:
            assert word in message, message

    return check
