"""The errors that people see."""


class InputError(ValueError):
    """What the caller gave cannot be used.

    The message says what was wanted, what came and what to do. A job that meets it prints the
    message alone and ends with exit code 2.
    """


class HaltError(InputError):
    """Bad input that every unit of a run would meet, such as a storage that refuses all writes."""


class UnfinishedError(RuntimeError):
    """Some units of work were set aside and all else is done; exit code 3.

    The same command tries those units again.
    """


class BusyError(RuntimeError):
    """Another run holds the output, or has taken it over: the message says which; exit code 4."""


class VerificationError(RuntimeError):
    """A check of `avader verify` failed; exit code 1."""


class TrainingError(RuntimeError):
    """A training cannot go on: the message says where, why and what to change; exit code 1."""


class StorageError(RuntimeError):
    """Storage did not do what was asked in the time given to it; exit code 1.

    The message says what, how often and for how long it was tried, and what came last.
    """
