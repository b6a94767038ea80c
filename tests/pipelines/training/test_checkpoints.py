"""Checkpoints: the newest whole one is taken, whatever a kill or a storage left of the others."""

import pytest

from avader.errors import TrainingError
from avader.io import local, storage
from avader.pipelines.training.checkpoints import Checkpoints
from avader.training.state import TrainingState, fresh_state, is_whole
from tests.training.tiny import RECIPE


@pytest.fixture(params=["local disk", "S3"])
def out(request, tmp_path) -> str:
    return request.getfixturevalue("s3_uri") if request.param == "S3" else str(tmp_path / "out")


def state_at(epoch: int, batches: int = 0) -> TrainingState:
    state = fresh_state(RECIPE, mean_pixel=0.5)
    state.epoch = epoch
    if batches:
        state.progress = state.fresh_progress()
        state.progress.batches = batches
    return state


def position(data: bytes) -> tuple[int, int]:
    state = fresh_state(RECIPE, mean_pixel=0.5)
    state.restore(data)
    return state.epoch, state.progress.batches if state.progress else 0


def latest(out) -> tuple[tuple[int, int] | None, list[str]]:
    said: list[str] = []
    data = Checkpoints(out).latest(said.append)
    return None if data is None else position(data), said


def names(out) -> list[str]:
    return [uri.rpartition("/")[2] for uri in storage.list_files(f"{out}/training/checkpoints")]


def test_none_at_first(out):
    assert latest(out) == (None, [])


def test_the_newest_two_are_kept(out):
    for epoch, batches in ((0, 7), (9, 0), (9, 12), (9, 100), (10, 0)):
        Checkpoints(out).save(state_at(epoch, batches))
        assert latest(out) == ((epoch, batches), [])
    assert names(out) == ["000009-000000100.state", "000010-000000000.state"]


@pytest.mark.parametrize("left", ["nothing", "half", "all but a byte", "a byte changed"])
def test_one_that_is_not_whole_is_left_out(out, left):
    for epoch in (3, 4):
        Checkpoints(out).save(state_at(epoch))
    uri = f"{out}/training/checkpoints/000004-000000000.state"
    data = storage.read_bytes(uri)
    middle = len(data) // 2
    rest = {
        "nothing": b"",
        "half": data[:middle],
        "all but a byte": data[:-1],
        "a byte changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }[left]
    storage.write_bytes(uri, rest)
    found, said = latest(out)
    assert found == (3, 0)
    size = f"{len(rest):,} bytes"
    assert said == [f"  checkpoint 000004-000000000.state is not whole ({size}): left out"]
    assert names(out) == ["000003-000000000.state"]


def test_where_none_is_whole_the_training_begins_anew(out):
    Checkpoints(out).save(state_at(1))
    storage.write_bytes(f"{out}/training/checkpoints/000001-000000000.state", b"")
    found, said = latest(out)
    assert found is None
    assert len(said) == 1


def test_a_folder_or_a_file_half_written_locally_is_no_checkpoint(tmp_path):
    Checkpoints(str(tmp_path)).save(state_at(2))
    folder = tmp_path / "training/checkpoints"
    (folder / "000003-000000000.state").mkdir()
    aside = folder / f".000003-000000000.state.{local.this_machine()}-999999999.abcdef01.tmp"
    aside.write_bytes(b"half")
    assert latest(str(tmp_path)) == ((2, 0), [])
    assert not aside.exists()


def test_restore_refuses_what_is_not_whole():
    data = state_at(1).to_bytes()
    assert is_whole(data)
    with pytest.raises(TrainingError, match="wanted a whole one, got 100 bytes"):
        state_at(0).restore(data[:100])
