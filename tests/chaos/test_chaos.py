"""A few rounds of every victim; `make test-chaos` does all."""

import pytest

from tests.chaos.__main__ import made_places
from tests.chaos.rounds import VICTIMS, Tally, do, rounds

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def places(tmp_path_factory, s3):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        yield made_places(tmp_path_factory.mktemp("chaos"), s3)


def test_whatever_dies_every_object_is_there_once(places):
    tally, few = Tally(), rounds(3)
    assert {round_.victim for round_ in few} == set(VICTIMS)
    for round_ in few:
        do(round_, places[round_.place], tally)
    assert tally.sound, tally.line()
    assert min(tally.kills[victim] for victim in VICTIMS) >= 1, tally.line()
    assert tally.faults.total() > 0, tally.line()
