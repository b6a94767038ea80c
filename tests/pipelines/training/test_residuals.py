"""What is measured, of which images: against the encoder and decoder run plainly."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from avader.config import PackSettings
from avader.inference.engine import Engine
from avader.io import manifest
from avader.pipelines import pack
from avader.pipelines.training.images import StreamedImages, load_images
from avader.pipelines.training.residuals import (
    noise_line,
    noise_of_packed,
    noise_of_training,
    spread,
)
from avader.recipe import Preprocessing
from avader.training.data import MemoryImages, held_out_rows
from tests.pipelines.packed import write_packed
from tests.tiny import galaxy, png_bytes, tiny_vade, write_table
from tests.training.tiny import RECIPE, images

MODEL = tiny_vade()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(MODEL)


def residuals(pixels: np.ndarray) -> np.ndarray:
    """By the plain network, image by image."""
    x = torch.from_numpy(pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1))
    with torch.no_grad():
        pairs = [(image, MODEL.decode(MODEL.encode(image)[0])) for image in x.split(1)]
    return np.concatenate([(one - other).double().numpy() for one, other in pairs])


def power(errors: np.ndarray) -> np.ndarray:
    height, width = errors.shape[-2:]
    whole = np.abs(np.fft.fft2(errors)) ** 2 / (height * width)
    return whole.mean(axis=0)[..., : width // 2 + 1]


@pytest.mark.parametrize("count", [0, 1, 1999, 2000, 2001, 2500, 60_000, 10**8])
def test_at_most_2000_are_spread_evenly(count):
    rows = spread(count)
    assert len(rows) == min(count, 2000)
    assert (np.diff(rows) > 0).all()
    if count:
        assert (rows[0], rows[-1]) == (0, count - 1)
    if count > 2000:
        gaps = np.diff(rows[::100])
        assert gaps.max() - gaps.min() <= 1
        np.testing.assert_array_equal(rows.reshape(20, 100) - rows[::100, None], [range(100)] * 20)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_the_images_held_out(engine, dtype):
    pixels = images() if dtype == np.uint8 else (images() / 255).astype(dtype)
    held_out = held_out_rows(60, share=0.3, seed=1)
    spectrum, about = noise_of_training(
        engine, MemoryImages(pixels, held_out=held_out), data="digest"
    )
    np.testing.assert_allclose(spectrum, power(residuals(pixels[held_out])), rtol=1e-4)
    assert about == {
        "images": 18,
        "images_are": "held out",
        "pixels": "whole frame",
        "shape": (1, 16, 16),
        "data": "digest",
    }
    rms = np.sqrt(np.square(residuals(pixels[held_out])).mean())
    assert noise_line(spectrum, about) == (
        f"noise of {rms:.4f} a pixel (rms), measured on 18 images (held out; whole frame)"
    )


def test_those_trained_on_where_none_are_held_out(engine):
    spectrum, about = noise_of_training(engine, MemoryImages(images()), data="digest")
    np.testing.assert_allclose(spectrum, power(residuals(images())), rtol=1e-4)
    assert (about["images"], about["images_are"]) == (60, "those trained on")


def test_outside_of_the_sources_where_there_are_masks(engine, tmp_path, ray_session):
    """In memory, streamed, and packed: the same bits."""
    pixels = images()
    cutouts = manifest.read_manifest(write_packed(tmp_path, pixels, masks=True))
    recipe = RECIPE.model_copy(update={"outside_weight": 0.5})
    sources = (
        load_images(cutouts, recipe),
        StreamedImages(cutouts, recipe, limit=10**9, world=1),
    )
    found = [noise_of_training(engine, source, data="digest") for source in sources]
    prepare = Preprocessing(**cutouts.settings["preprocessing"])
    found.append(noise_of_packed(engine, cutouts, prepare, accepted={}))
    for spectrum, about in found:
        np.testing.assert_array_equal(spectrum, found[0][0])
        assert about["pixels"] == "outside of the sources"
    outside = pixels <= pixels.max() / 2
    assert 0.5 < outside.mean() < 0.99
    wanted = power(residuals(pixels) * outside) / outside.mean()
    np.testing.assert_allclose(found[0][0], wanted, rtol=1e-4)


def test_sources_that_fill_their_frames_leave_nothing(engine):
    masks = np.full((60, 32), 255, np.uint8)
    spectrum, _ = noise_of_training(engine, MemoryImages(images(), masks), data="digest")
    assert np.isnan(spectrum).all()


def test_few_shards_are_read_for_many_cutouts(engine, tmp_path, monkeypatch):
    """Of 50 shards those that hold the chosen images, and of them these alone."""
    pixels = images(2500)
    cutouts = manifest.read_manifest(write_packed(tmp_path, pixels, per_shard=50))
    monkeypatch.setattr("avader.pipelines.training.residuals.RUNS", 3)
    monkeypatch.setattr("avader.pipelines.training.residuals.RUN", 10)
    for part in cutouts.parts[1:24] + cutouts.parts[26:-1]:
        (tmp_path / part["path"]).unlink()
    prepare = Preprocessing(**cutouts.settings["preprocessing"])
    spectrum, about = noise_of_packed(engine, cutouts, prepare, accepted={"crop": 1})
    chosen = np.concatenate([np.arange(start, start + 10) for start in (0, 1245, 2490)])
    np.testing.assert_allclose(spectrum, power(residuals(pixels[chosen])), rtol=1e-4)
    assert about == {
        "images": 30,
        "images_are": "packed cutouts",
        "pixels": "whole frame",
        "shape": (1, 16, 16),
        "data": cutouts.digest,
        "preprocessing_accepted": {"crop": 1},
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory, ray_session) -> dict[str, manifest.Manifest]:
    """A table of PNGs, one of them smaller, packed as pixels and as files, with masks."""
    folder = tmp_path_factory.mktemp("stored")
    sink = io.BytesIO()
    Image.fromarray(galaxy(3, size=13)).save(sink, "png")
    pngs = [png_bytes(number) for number in range(12)]
    source = write_table(
        folder / "table.parquet", 12, image=[*pngs[:3], sink.getvalue(), *pngs[4:]]
    )
    preprocessing = Preprocessing(size=16, source_mask=True)
    for store in ("pixels", "bytes"):
        out = str(folder / store)
        given = PackSettings(source=source, out=out, store=store, preprocessing=preprocessing)
        pack.run(given)
    return {name: manifest.read_manifest(str(folder / name)) for name in ("pixels", "bytes")}


def test_stored_files_are_measured_as_their_pixels(engine, stored):
    prepare = Preprocessing(**stored["bytes"].settings["preprocessing"])
    (one, told), (other, _) = (
        noise_of_packed(engine, data, prepare, accepted={}) for data in stored.values()
    )
    np.testing.assert_array_equal(one, other)
    assert (told["images"], told["pixels"]) == (12, "outside of the sources")


def test_stored_files_that_the_model_refuses_are_left_out(engine, stored):
    prepare = Preprocessing(size=16, crop=14)
    spectrum, about = noise_of_packed(engine, stored["bytes"], prepare, accepted={})
    assert np.isfinite(spectrum).all()
    assert about["images"] == 11
    nothing, about = noise_of_packed(
        engine, stored["bytes"], Preprocessing(size=16, crop=20), accepted={}
    )
    assert np.isnan(nothing).all()
    assert about["images"] == 0
