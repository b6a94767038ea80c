"""Digests of any number of ids on this machine's disk, compared a small share at a time."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import IO, Self

import numpy as np

from avader.catalogue.repeats import Digests, repeated_rows
from avader.errors import InputError
from avader.io.refusals import refusal

BITS = 7
"""Leading bits of a digest that choose its file, one of 128."""
RECORD = np.dtype([("digest", np.uint64, 2), ("row", np.int64)])


class IdSpool:
    """Rows that repeat the id of an earlier row, whatever the number of rows.

    Equal ids have equal digests, so they meet in one of 128 temporary files, and one file at a time
    is looked at. Disk: 24 bytes an id. Memory: about 100 bytes for every 128th id, so 80 MB for
    10^8 ids; more only where one id is repeated millions of times.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._stack = ExitStack()
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        with _on_disk():
            for _ in range(2**BITS):
                file = tempfile.TemporaryFile()  # closed with the stack
                self._files.append(self._stack.enter_context(file))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _on_disk():
            self._stack.close()

    def add(self, digests: Digests) -> None:
        """Add the next rows, (N, 2); zeros are rows without an id, which never repeat."""
        there = np.flatnonzero(digests.any(axis=1))
        records = np.empty(len(there), RECORD)
        records["digest"], records["row"] = digests[there], self._rows + there
        self._rows += len(digests)
        owners = (records["digest"][:, 0] >> np.uint64(64 - BITS)).astype(np.uint8)
        records = records[np.argsort(owners, kind="stable")]
        ends = np.cumsum(np.bincount(owners, minlength=len(self._files)))
        with _on_disk():
            for owner in np.unique(owners):
                start = ends[owner - 1] if owner else 0
                self._files[owner].write(records[start : ends[owner]])

    def repeats(self) -> Iterator[tuple[int, int]]:
        """Every row that repeats an earlier one, and the first row with its id, file by file."""
        for file in self._files:
            with _on_disk():
                file.seek(0)
                records = np.frombuffer(file.read(), RECORD)
            again, kept = repeated_rows(records["digest"])
            yield from zip(
                records["row"][again].tolist(), records["row"][kept].tolist(), strict=True
            )


@contextmanager
def _on_disk() -> Iterator[None]:
    """Have errors of the temporary files say where they are."""
    try:
        yield
    except OSError as error:
        where = tempfile.gettempdir()
        text = refusal(error, verb="write", where=where, on_s3=False)
        raise InputError(f"{text} (TMPDIR sets another folder for temporary files)") from error
