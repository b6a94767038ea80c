import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avader.catalogue.repeats import id_digests, repeated_rows

WORDS = st.integers(0, 3)


def plain(keys: list) -> list[tuple[int, int]]:
    """Each row that repeats an earlier key, and the first row with it, by a dict; None is none."""
    first: dict = {}
    return [
        (row, first[key])
        for row, key in enumerate(keys)
        if key is not None and first.setdefault(key, row) != row
    ]


@given(st.lists(st.tuples(WORDS, WORDS), max_size=40))
def test_repeated_rows_are_those_of_a_dict(words):
    digests = np.array(words, np.uint64).reshape(-1, 2)
    rows, kept = repeated_rows(digests)
    keys = [None if pair == (0, 0) else pair for pair in words]
    assert list(zip(rows.tolist(), kept.tolist(), strict=True)) == plain(keys)


@given(st.lists(st.none() | st.text(max_size=3), max_size=40))
def test_digests_are_equal_where_ids_are(names):
    digests = id_digests(names)
    rows, kept = repeated_rows(digests)
    assert digests.shape == (len(names), 2)
    assert list(zip(rows.tolist(), kept.tolist(), strict=True)) == plain(
        [name or None for name in names]
    )


def test_a_digest_is_that_of_hashlib():
    wanted = hashlib.blake2b(b"1237648720693755918", digest_size=16).digest()
    assert id_digests(["1237648720693755918"]).tobytes() == wanted
