"""The one error that people see: bad input, told before any work starts."""


class InputError(ValueError):
    """What the caller gave cannot be used.

    The message says what was wanted, what came and what to do. A job that meets it prints the
    message alone and ends with exit code 2.
    """
