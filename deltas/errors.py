"""The one error that bad input raises."""


class InputError(ValueError):
    """What the caller gave cannot be used: one sentence saying what was expected, what was got, and the remedy.

    The command line prints it and ends with status 2; a library caller may catch it as a `ValueError`.
    """
