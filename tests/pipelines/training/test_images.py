"""Images in memory or streamed: the same images, the same order, the same training."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from avader.config import PackSettings
from avader.errors import InputError
from avader.io import manifest
from avader.io.models import read_model, read_noise
from avader.pipelines import pack, train
from avader.pipelines.training.images import (
    StreamedImages,
    _images_of,
    _run_errand,
    load_images,
    open_images,
)
from avader.pipelines.training.memory import GROUPS, free_bytes
from avader.survey.stored import pixel_reader
from avader.training import loop
from avader.training.data import MemoryImages, Sequence
from avader.training.state import fresh_state
from avader.training.task import Task
from tests.pipelines.packed import figures, history, settings, write_packed
from tests.tiny import PREPROCESSING, write_table
from tests.training.tiny import changed, images

# Windows of 20 images, of 60 in 6 shards.
RECIPE = changed(
    window=20,
    held_out=0.1,
    schedule={"gamma_epochs": 1, "periods": 1, "annealing_epochs": 1, "static_epochs": 0},
    checkpoint_steps=1,
)
SMALL = 40 * 256 / 2**30
"""GiB of 40 images: less than all, more than a window and a shard."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_packed(tmp_path_factory.mktemp("packed"), images(), per_shard=10)


@pytest.fixture(scope="module")
def in_memory(data, ray_session, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("memory") / "model"
    train.run(settings(data, out, RECIPE, workers=1))
    return out


def test_sizes_decide(data):
    cutouts = manifest.read_manifest(data)
    size = images().nbytes
    assert isinstance(open_images(cutouts, RECIPE, limit=size, world=1), MemoryImages)
    streamed = open_images(cutouts, RECIPE, limit=size - 1, world=1)
    assert isinstance(streamed, StreamedImages)
    assert "streamed from 6 shards, at most 7.5 KiB in every worker" in streamed.line


def test_a_window_larger_than_the_limit_is_refused(data):
    cutouts = manifest.read_manifest(data)
    with pytest.raises(InputError, match=r"wanted a window of 20 images .* lower --window"):
        open_images(cutouts, RECIPE, limit=30 * 256 - 1, world=1)
    open_images(cutouts, RECIPE, limit=15 * 256, world=2)


@pytest.mark.parametrize("masked", [False, True])
def test_streamed_images_are_those_in_memory(data, masked, ray_session, tmp_path):
    recipe = RECIPE.model_copy(update={"outside_weight": 0.5}) if masked else RECIPE
    if masked:
        data = write_packed(tmp_path / "packed", images(), per_shard=10, masks=True)
    cutouts = manifest.read_manifest(data)
    streamed = StreamedImages(cutouts, recipe, limit=10**9, world=1)
    held = load_images(cutouts, recipe)
    assert streamed.mean_pixel == held.mean_pixel
    np.testing.assert_array_equal(streamed.held_out_rows, held.held_out_rows)
    orders = [Sequence(3, 1, 16, rank, 2, skip=1, window=20) for rank in (0, 1)]
    pairs = [(streamed.parts(order), held.parts(order)) for order in orders]
    rows = np.array([1, 8, 30, 31, 59])
    for ours, theirs in [*pairs, (streamed.some(rows, 2), held.some(rows, 2))]:
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.share.rows, other.share.rows)
            np.testing.assert_array_equal(one.pixels, other.pixels)
            if masked:
                np.testing.assert_array_equal(one.masks, other.masks)
                assert one.masks.any()
            else:
                assert one.masks is None


@pytest.mark.long
def test_a_shard_larger_than_a_block_of_ray_is_streamed_whole(ray_session, tmp_path):
    """Of 210 MB: Ray Data would cut what is read of it."""
    pixels = np.zeros((200, 1, 1024, 1024), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(200)
    cutouts = manifest.read_manifest(write_packed(tmp_path / "packed", pixels, per_shard=200))
    rows = np.array([1, 100, 199])
    streamed = StreamedImages(cutouts, RECIPE, limit=10**10, world=1)
    assert [part.pixels[0, 0, 0, 0] for part in streamed.some(rows, 1)] == rows.tolist()
    every = np.concatenate([p.pixels[:, 0, 0, 0] for p in streamed.some(np.arange(200), 100)])
    np.testing.assert_array_equal(every, np.arange(200))


def test_a_streamed_training_goes_on_in_mid_epoch(data, ray_session):
    """Bit for bit as in memory, and without reading again the shards that are done."""
    cutouts = manifest.read_manifest(data)
    held, saved = load_images(cutouts, RECIPE), []

    def keep(state):
        if state.epoch == 1 and state.progress.batches == 3:
            saved.append(state.to_bytes())

    whole = fresh_state(RECIPE, mean_pixel=held.mean_pixel)
    loop.train(whole, Task(RECIPE, held), loop.Watch(batch=keep))
    streamed = StreamedImages(cutouts, RECIPE, limit=10**9, world=1)
    asked: list[int] = []
    read = streamed._stream
    streamed._stream = lambda errands, function: (
        asked.append(len(errands)) or read(errands, function)
    )
    state = fresh_state(RECIPE, mean_pixel=0.1)
    state.restore(saved[0])
    loop.train(state, Task(RECIPE, streamed), loop.Watch())
    assert asked[0] <= 3, "of 6 shards in 3 windows; 14 of 54 images are left"
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name
    assert [row["loss"] for row in state.history] == [row["loss"] for row in whole.history]


@pytest.mark.long
def test_a_streamed_training_is_the_one_in_memory(in_memory, data, ray_session, tmp_path, caplog):
    """Bit for bit, in less memory than the images take."""
    out = tmp_path / "model"
    with caplog.at_level(logging.INFO, "avader"):
        train.run(settings(data, out, RECIPE, workers=1, memory_limit=SMALL))
    assert "streamed from 6 shards" in caplog.text
    assert figures(out) == figures(in_memory)
    assert read_model(str(out)).digest == read_model(str(in_memory)).digest
    noise = read_noise(str(out))
    assert noise.digest == read_noise(str(in_memory)).digest
    assert (noise.about["images"], noise.about["images_are"]) == (6, "held out")


@pytest.mark.long
def test_two_streaming_workers_follow_one(in_memory, data, ray_session, tmp_path):
    train.run(settings(data, tmp_path / "two", RECIPE, workers=2, memory_limit=SMALL / 2))
    for one, two in zip(history(in_memory), history(tmp_path / "two"), strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-3), one["epoch"]


def test_a_shard_that_is_not_finite(ray_session, tmp_path):
    pixels = images().astype(np.float16) / 255
    pixels[37] = np.nan
    cutouts = manifest.read_manifest(write_packed(tmp_path / "packed", pixels, per_shard=10))
    streamed = StreamedImages(cutouts, RECIPE, limit=10**9, world=1)
    with pytest.raises(InputError, match="wanted finite pixels, got 1 images of 10"):
        _ = streamed.mean_pixel


def test_a_shard_that_changed(ray_session, tmp_path):
    cutouts = manifest.read_manifest(write_packed(tmp_path / "packed", images(), per_shard=10))
    write_packed(tmp_path / "other", images(59), per_shard=10)
    (tmp_path / "other/parts/00000005.parquet").rename(tmp_path / "packed/parts/00000005.parquet")
    streamed = StreamedImages(cutouts, RECIPE, limit=10**9, world=1)
    with pytest.raises(InputError, match=r"wanted 10 images in parts/00000005.parquet .*, got 9"):
        list(streamed.parts(Sequence(0, 0, 16, window=20)))


@pytest.mark.parametrize("version", [2, 1])
def test_free_memory_of_a_container(version, tmp_path):
    proc, group = tmp_path / "proc", tmp_path / "group"
    (group / "memory").mkdir(parents=True)
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   500 kB\n")
    assert free_bytes(str(proc), str(group)) == 500 * 1024
    limit, used, stat, file = GROUPS[2 - version]
    (group / used).write_text("100000\n")
    (group / stat).write_text(f"anon 7\n{file} 30000\n")
    (group / limit).write_text("max\n")
    assert free_bytes(str(proc), str(group)) == 500 * 1024
    (group / limit).write_text("300000\n")
    assert free_bytes(str(proc), str(group)) == 230_000


def test_a_system_that_does_not_tell_its_free_memory(tmp_path):
    with pytest.raises(InputError, match="set --memory-limit"):
        free_bytes(str(tmp_path / "absent"))


def test_files_are_prepared_for_wanted_rows_alone(tmp_path):
    source = write_table(tmp_path / "table.parquet", 10)
    data, prepared = str(tmp_path / "packed"), []
    pack.run(
        PackSettings(source=source, out=data, store="bytes", preprocessing=PREPROCESSING, workers=1)
    )
    held = manifest.read_manifest(data)
    part = max(held.parts, key=lambda part: part["rows"])
    read = pixel_reader(held.settings)

    def counted(column):
        prepared.append(len(column))
        return read(column)

    def errand(rows):
        wanted = np.array(rows).tobytes()
        batch = pa.table({"path": [part["path"]], "rows": [part["rows"]], "wanted": [wanted]})
        return _run_errand(batch, uri=data, masked=False, read=counted, function=_images_of)

    every = errand(range(part["rows"]))["pixels"]
    few = errand([1, 0])["pixels"]
    np.testing.assert_array_equal(few, every[[1, 0]])
    assert prepared == [part["rows"], 2]
