"""A few rounds, one of every victim; `make test-chaos` does them all."""

import pytest

from tests.chaos.rounds import VICTIMS, Tally, do, rounds
from tests.chaos.world import world

pytestmark = pytest.mark.long


def test_whatever_dies_every_object_is_there_once(tmp_path, s3):
    tally, few = Tally(), rounds(3)
    assert {round_.victim for round_ in few} == set(VICTIMS)
    with world(tmp_path, s3, {round_.place for round_ in few}) as around:
        for round_ in few:
            do(round_, around, tally)
    assert tally.sound, tally.line()
    assert set(tally.kills) == set(VICTIMS), tally.line()
    assert tally.faults, tally.line()
