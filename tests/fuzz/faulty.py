"""Does what cases must not do: for the test of the watch."""

import os
import time
from pathlib import Path

from tests.fuzz.work import work


def misbehave(number: int, _: Path) -> str:
    """Die, hang, swell, raise or go on, by the number."""
    if number == 2:
        os.abort()
    if number == 4:
        time.sleep(600)
    if number == 6:
        bytearray(300 * 2**20).count(b"x")
    if number == 8:
        raise MemoryError
    return "png: cutout"


if __name__ == "__main__":
    work(misbehave)
