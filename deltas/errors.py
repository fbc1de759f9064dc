"""The one error that bad input raises, and two questions that settings of many kinds are asked."""

from collections.abc import Sequence


class InputError(ValueError):
    """What the caller gave cannot be used: one sentence saying what was expected, what was got, and the remedy.

    The command line prints it and ends with status 2; a library caller may catch it as a `ValueError`.
    """


def at_least_one(settings: object, whose: str, *names: str) -> None:
    """Refuse settings of which a number that counts something is below 1; None is a number that is not given."""
    for name in names:
        if (value := getattr(settings, name)) is not None and value < 1:
            raise InputError(f"expected {whose} {name} to be at least 1, got {value}; choose another")


def one_of(settings: object, whose: str, **choices: Sequence[str]) -> None:
    """Refuse settings of which a word is none of its choices."""
    for name, words in choices.items():
        if (value := getattr(settings, name)) not in words:
            raise InputError(f"expected {whose} {name} to be {' or '.join(words)}, got {value!r}; choose one")
