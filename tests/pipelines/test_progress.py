import pytest

from avader.pipelines import progress
from avader.pipelines.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_leave_out_what_was_done_before_and_the_start(clock):
    counted = Progress("classified", 1000)
    counted.before = counted.done = 400
    clock[0] += 30  # workers start
    counted.add(100)
    assert counted.line() == "classified 500 of 1,000 images"
    clock[0] += 10
    counted.add(200, rejects=3)
    assert counted.line() == "classified 700 of 1,000 images, 20.0 a second, 3 rejects, 15 s left"
    clock[0] += 10
    counted.add(300)
    assert counted.line() == "classified 1,000 of 1,000 images, 25.0 a second, 3 rejects"


def test_workers_in_step_are_not_faster_than_they_are(clock):
    """Two that take 10 s for 100 objects each: 20 a second from the second round on."""
    counted = Progress("classified", 1000)
    counted.workers = 2
    for _ in range(3):
        clock[0] += 10
        counted.add(100)
        clock[0] += 0.01
        counted.add(100)
    assert counted.rate == pytest.approx(20, rel=0.01)


def test_a_line_now_and_then(clock, caplog):
    caplog.set_level("INFO", logger="avader")
    counted = Progress("packed", None, noun="cutouts", every=5)
    for _ in range(10):
        clock[0] += 1
        counted.add(10)
    assert [record.message for record in caplog.records] == [
        "  packed 50 cutouts, 10.0 a second",
        "  packed 100 cutouts, 10.0 a second",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59, "59 s"), (80, "1 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_as_people_say_them(seconds, words):
    assert duration(seconds) == words
