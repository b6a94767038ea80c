"""The live line: what it says, and how honest its time left is."""

import pytest

from avader.pipelines.training import line
from avader.pipelines.training.line import Pace, batch_line, epoch_line, figures, number
from avader.recipe import Schedule
from tests.report.histories import history

SCHEDULE = Schedule(gamma_epochs=4, periods=2, annealing_epochs=2, static_epochs=1)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(line.time, "monotonic", lambda: now[0])
    return now


def paced(clock, seconds, *, before=()):
    """A pace after epochs of these seconds."""
    pace = Pace(SCHEDULE)
    pace.begin(before)
    for epoch, each in enumerate(seconds, start=len(before)):
        clock[0] += each
        pace.epoch(epoch)
    return pace


def test_kinds_not_seen_count_as_the_last_and_are_told(clock):
    assert paced(clock, [10, 30, 10]).left(3) == "1 min 10 s left at this rate"


def test_every_kind_has_its_own_time(clock):
    """Two of annealing (20 s) and one static (50 s) to go."""
    assert paced(clock, [10, 10, 10, 10, 20, 20, 50]).left(7) == "1 min 30 s left"


def test_a_slow_epoch_is_no_rule(clock):
    """A median: the first annealing epoch makes the mixture too."""
    pace = paced(clock, [1, 1, 1, 1, 500, 20, 50, 20])
    assert pace.left(8) == "1 min 10 s left"


def test_after_a_restart_the_history_tells(clock):
    pace = paced(clock, [], before=history(SCHEDULE, 7))
    assert pace.left(7) == "6 s left"
    clock[0] += 100
    pace.epoch(7)
    assert pace.left(8) == "1 min 42 s left"


def test_within_an_epoch(clock):
    """400 of 1,000 images at 20 a second since the first batch: 30 s, then 6 epochs of 50 s."""
    pace = paced(clock, [])
    clock[0] += 7  # the first batch waits for the workers
    pace.batch(100)
    assert pace.left(1, 900) == ""
    clock[0] += 15
    pace.batch(400)
    assert pace.rate == 20
    assert pace.left(1, 600) == "8 min 0 s left at this rate"
    row = {"loss": 1.5, "reconstruction": 1.0}
    assert batch_line(row, pace, epoch=0, images=1000) == (
        "gamma, epoch 1 of 10, 400 of 1,000 images: loss 1.500, reconstruction 1.000, "
        "20 images/s, 8 min 0 s left at this rate"
    )


def test_the_line_of_an_epoch(clock):
    rows = history(SCHEDULE)
    assert epoch_line(rows[3], paced(clock, [10] * 4)) == (
        "gamma, epoch 4 of 10: loss 30.000, reconstruction 25.000, unit KL 23.000, 100 images/s, "
        "1 min 0 s left at this rate"
    )
    assert epoch_line(rows[9], paced(clock, [10] * 10)) == (
        "static 2, epoch 10 of 10: loss 12.000, reconstruction 10.000, mixture KL 30.000, "
        "7.5 components, 100 images/s"
    )


def test_what_else_a_row_has():
    extra = {
        "contrast": 3.2e-4,
        "weight_pseudo_labels": 0.0,
        "pseudo_labels": 7.0,
        "held_out_reconstruction": 12.5,
        "skipped_steps": 2,
        "reseeded": 0,
        "starving": 3,
    }
    assert figures(history(SCHEDULE, **extra)[9]) == (
        "loss 12.000, reconstruction 10.000, held-out reconstruction 12.500, mixture KL 30.000, "
        "contrast 3.2e-04, 7.5 components (3 starving), skipped steps 2"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.000"), (12345.678, "12,345.678"), (-0.002, "-2.0e-03")]
)
def test_numbers(value, text):
    assert number(value) == text
