"""The schedule against tables worked out by hand."""

import pytest

from avader.model.schedule import at, learning_rate, phases, total_epochs
from avader.recipe import Optimiser, Schedule

SMALL = Schedule(
    gamma=0.1, gamma_epochs=2, periods=2, annealing_epochs=2, static_epochs=1, kl_weight=0.5
)


def test_phases_of_the_paper():
    found = phases(Schedule())
    assert [phase.name for phase in found[:3]] == ["gamma", "annealing 1", "static 1"]
    assert [(phase.start, phase.epochs) for phase in found[:3]] == [(0, 100), (100, 25), (125, 25)]
    assert len(found) == 11
    assert total_epochs(Schedule()) == 350


def test_table_of_a_small_schedule():
    """Annealing weighs min(1, 0.1 + (1/2)^3), then 1, all times 0.5."""
    table = [
        ("gamma", 0.1, 0.0, False),
        ("gamma", 0.1, 0.0, False),
        ("annealing 1", 0.0, 0.5 * 0.225, True),
        ("annealing 1", 0.0, 0.5, True),
        ("static 1", 0.0, 0.5, True),
        ("annealing 2", 0.0, 0.5 * 0.225, True),
        ("annealing 2", 0.0, 0.5, True),
        ("static 2", 0.0, 0.5, True),
    ]
    for epoch, (name, unit, mixture, trains) in enumerate(table):
        weights = at(SMALL, epoch)
        assert weights.phase.name == name
        assert weights.unit_kl == pytest.approx(unit)
        assert weights.mixture_kl == pytest.approx(mixture)
        assert weights.trains_mixture is trains


def test_first_annealing_weight_of_the_paper():
    assert at(Schedule(), 100).mixture_kl == pytest.approx(0.3 * (5e-4 + 0.04**3))
    assert at(Schedule(), 124).mixture_kl == pytest.approx(0.3)


@pytest.mark.parametrize("epoch", [-1, 8])
def test_epoch_outside_the_schedule(epoch):
    with pytest.raises(ValueError, match=f"epoch: wanted 0 to 7, got {epoch}"):
        at(SMALL, epoch)


def test_no_static_epochs():
    schedule = Schedule(gamma_epochs=1, periods=2, annealing_epochs=3, static_epochs=0)
    assert [phase.name for phase in phases(schedule)] == ["gamma", "annealing 1", "annealing 2"]
    assert total_epochs(schedule) == 7


def test_learning_rate_of_the_paper():
    optimiser = Optimiser()
    rates = [learning_rate(optimiser, epoch, 350) for epoch in range(350)]
    assert rates[:5] == [3e-4] * 5
    assert rates[5] == pytest.approx(3e-4 * (1 / 300) ** (1 / 69))
    assert rates[344] > 1.05e-6
    assert rates[345:] == pytest.approx([1e-6] * 5)


@pytest.mark.parametrize("total", [1, 4, 5, 6, 349, 351])
def test_learning_rate_ends_at_the_final_one(total):
    optimiser = Optimiser(decay_every=5)
    last = learning_rate(optimiser, total - 1, total)
    assert last == pytest.approx(3e-4 if total <= 5 else 1e-6)
