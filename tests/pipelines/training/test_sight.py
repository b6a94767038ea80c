"""What a training shows: files, the same after a restart, and lines within epochs."""

import pytest

from avader.io import storage
from avader.pipelines.training import sight
from avader.pipelines.training.sight import Teller
from avader.report import figures
from avader.report.history import from_csv
from avader.training.data import MemoryImages
from avader.training.loop import Watch, train
from avader.training.state import fresh_state
from avader.training.task import Task
from tests.training.tiny import EPOCHS, RECIPE, changed, images

PHASES = [
    *("01-gamma.png", "02-annealing-1.png", "03-static-1.png"),
    *("04-annealing-2.png", "05-static-2.png"),
]
TIMES = {"seconds", "images_per_second"}


@pytest.fixture(autouse=True)
def small_charts(monkeypatch):
    """Dots are most of what a chart costs."""
    monkeypatch.setattr(figures, "DOTS_PER_INCH", 40)


class Lines(list):
    """A board that keeps what is written on it."""

    write = list.append


def told(out, *, saved=None, keep_at=None, recipe=RECIPE):
    """Train to the end in this process, telling; gives the lines, and the state at an epoch."""
    state, kept, lines = fresh_state(recipe, mean_pixel=0.2), [], Lines()
    if saved is not None:
        state.restore(saved)
    teller = Teller(recipe, 60, str(out), lines)
    task = Task(recipe, MemoryImages(images()))
    teller.begin(state, task)

    def epoch(state):
        teller.epoch(state)
        if state.epoch == keep_at:
            kept.append(state.to_bytes())

    train(state, task, Watch(epoch=epoch, batch=teller.batch))
    return lines, kept


def files(out) -> dict[str, bytes]:
    uris = storage.list_files(f"{out}/training")
    return {uri.rpartition("/training/")[2]: storage.read_bytes(uri) for uri in uris}


def rows_of(out):
    rows = from_csv(storage.read_text(f"{out}/training/metrics.csv"))
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def check(out):
    """All files are there, once; a training that goes on writes the same ones again."""
    _, (saved,) = told(out, keep_at=4)
    before, rows = files(out), rows_of(out)
    events = [f"tensorboard/events.out.tfevents.{n:06d}.avader" for n in range(1, EPOCHS + 1)]
    phases = [f"phases/{name}" for name in PHASES]
    assert sorted(before) == sorted(["metrics.csv", "curves.png", *phases, *events])
    lines, _ = told(out, saved=saved)
    assert "  going on after epoch 4 of 9" in lines
    after = files(out)
    assert sorted(after) == sorted(before)
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert rows_of(out) == rows
    for name in phases:
        assert after[name] == before[name], name


def test_files_on_local_disk(tmp_path):
    check(tmp_path)


@pytest.mark.long
def test_files_on_s3(s3_uri):
    check(s3_uri)


def test_lines_of_epochs_and_within_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sight, "QUIET", 0.0)
    lines, _ = told(tmp_path)
    assert (
        lines[0] == "  1 worker(s); 60 x 1 x 16 x 16 uint8 images, 0.0 MiB in every worker; float32"
    )
    within = [line for line in lines if ", 45 of 60 images: loss " in line]
    assert len(within) == EPOCHS
    assert within[0].startswith("  gamma, epoch 1 of 9, 45 of 60 images: loss ")
    assert "images/s" in within[0]
    assert within[0].endswith("left at this rate")
    assert within[-1].startswith("  static 2, epoch 9 of 9, ")
    assert within[-1].endswith(" left")
    assert not any("60 of 60 images" in line for line in lines)  # the epoch's own line follows
    ends = [line for line in lines if " of 9: loss " in line]
    assert len(ends) == EPOCHS
    assert "components" in ends[-1]
    assert "left" not in ends[-1]


@pytest.mark.parametrize(("spare", "epochs"), [(1e9, [1, 9]), (0.0, range(1, 10))])
def test_curves_wait_when_they_are_dear(tmp_path, monkeypatch, spare, epochs):
    """Drawn after the first epoch and the last, and between where there is time to spare."""
    drawn = []
    monkeypatch.setattr(sight, "SPARE", spare)
    monkeypatch.setattr(sight, "curves_png", lambda history: drawn.append(len(history)) or b"")
    told(tmp_path)
    assert drawn == list(epochs)


def test_more_components_than_are_shown_are_told(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        sight, "phase_png", lambda *_, **given: titles.append(given["samples_title"]) or b""
    )
    monkeypatch.setattr(sight.tensorboard, "events", lambda *_: b"")
    told(tmp_path, recipe=changed(mixture={"components": 13}))
    assert titles[0] == "samples of the unit Gaussian: there is no mixture yet"
    assert titles[1] == "samples of each component, with its weight (the heaviest 12 of 13)"
