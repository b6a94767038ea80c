"""A disk that is full: a clear error, and nothing that a reader would trust."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import avader
from avader.config import GenerateSettings
from avader.errors import InputError
from avader.io import storage
from avader.pipelines import generate
from tests.tiny import write_tiny_model

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MiB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("store", "count"), [("images", 20_000), ("encoded", 20_000), ("recipe", 400_000)]
)
def test_generate_says_so_and_goes_on_once_there_is_room(small_disk, tmp_path, store, count):
    model, out = write_tiny_model(tmp_path / "model"), small_disk / "sky"
    settings = GenerateSettings(
        model=model, out=str(out), count=count, rows_per_shard=count // 20, workers=1, store=store
    )
    with pytest.raises(InputError, match="the disk is full: make room"):
        generate.run(settings)
    with pytest.raises(InputError, match="whose run has not ended; repeat its command"):
        avader.open_catalogue(str(out))
    done = storage.list_files(f"{out}/rejects", (".parquet",))
    assert 0 < len(done) < 20
    grow = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(grow, check=True)
    generate.run(settings)
    assert avader.open_catalogue(str(out)).manifest.totals["rows"] == count
