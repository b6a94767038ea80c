"""How far the engine is from float64, with the published weights on real galaxies.

Legend: B images, D latent dimensions.
"""

import copy
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from avader.images.cutouts import prepare
from avader.images.decode import decode_image
from avader.inference.engine import Engine, exact_arithmetic
from avader.mixture.sample import mixture_arrays, sample
from avader.model.files import model_from_arrays
from avader.model.published import VARIANCE_FLOOR, read_published
from avader.model.vade import VaDE
from avader.pipelines.memory import keep_freed_memory
from avader.recipe import PUBLISHED_PREPROCESSING

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
COUNT = 256
# What plain float32 was measured to err by; both networks' kernels are the machine's.
ENCODE, DECODE = 2e-5, 2e-6


class Plain:
    """The published network as PyTorch runs it, in one precision."""

    def __init__(self, model: VaDE, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.model = copy.deepcopy(model).to(dtype).to(memory_format=torch.channels_last)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Mean and log variance (B, 2 D) of bytes (B, C, H, W)."""
        x = torch.from_numpy(images).float() / 255
        x = x.to(self.dtype, memory_format=torch.channels_last)
        return self._each(x, lambda part: torch.cat(self.model.encode(part), dim=1))

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Images (B, C, H, W) of latents (B, D)."""
        return self._each(torch.from_numpy(z).to(self.dtype), self.model.decode)

    def _each(self, rows, compute) -> np.ndarray:
        with torch.inference_mode(), exact_arithmetic():
            return torch.cat([compute(part) for part in rows.split(16)]).numpy()


class Exact(NamedTuple):
    """What is encoded and decoded, and what float64 makes of it.

    mean and logvar of the images (B, 2 D); images of latents, by where these come from.
    """

    images: np.ndarray
    encoded: np.ndarray
    latents: dict[str, np.ndarray]
    decoded: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(real_data) -> VaDE:
    weights = real_data / "astrovader_published" / "saved_weights.h5"
    found = read_published(weights.read_bytes())
    return model_from_arrays(
        found.state,
        network=found.network,
        components=found.components,
        variance_floor=VARIANCE_FLOOR,
    )


@pytest.fixture(scope="module")
def exact(real_data, model) -> Exact:
    keep_freed_memory()  # else page faults take a third of float64's time
    # These cutouts are at half the published scale: the central 96 px are the published 192.
    wanted = PUBLISHED_PREPROCESSING.model_copy(update={"crop": 96})
    table = pq.read_table(real_data / "galaxy_zoo_5class.parquet", columns=["image"])
    files = table["image"].slice(0, COUNT).to_pylist()
    images = np.stack([prepare(decode_image(data), wanted).pixels for data in files])
    plain = Plain(model, torch.float64)
    encoded = plain.encode(images)
    drawn, _ = sample(mixture_arrays(model.mixture()), count=COUNT, seed=0)
    means = encoded[:, : drawn.shape[1]].astype(np.float32)
    # 256 images together.
    latents = {"drawn": drawn[::2], "encoded": means[::2]}
    decoded = {name: plain.decode(z) for name, z in latents.items()}
    return Exact(images, encoded, latents, decoded)


def test_float32_errs_no_more_than_the_plain_network(model, exact):
    engine, plain = Engine(model), Plain(model, torch.float32)
    ours = np.concatenate(engine.encode(exact.images), axis=1)
    encode = [np.abs(found - exact.encoded).max() for found in (ours, plain.encode(exact.images))]
    assert encode[0] <= 1.5 * min(encode[1], ENCODE)
    for name, z in exact.latents.items():
        decode = [np.abs(run.decode(z) - exact.decoded[name]).max() for run in (engine, plain)]
        assert decode[0] <= 1.5 * min(decode[1], DECODE)


@pytest.mark.parametrize("origin", ["drawn", "encoded"])
def test_bfloat16_pixels_are_within_two_grey_levels(model, exact, origin):
    """Everywhere, also on the rim, where the folding corrects what it has made."""
    pixels = Engine(model, precision="bfloat16").decode_pixels(exact.latents[origin])
    wanted = np.rint(255 * np.clip(exact.decoded[origin], 0, 1))
    levels = np.abs(pixels - wanted)
    assert levels.max() <= 2
    assert 0 < (levels > 0).mean() < 0.08


def test_bfloat16_finds_the_same_components(model, exact):
    engine = Engine(model, precision="bfloat16")
    latent = exact.latents["drawn"].shape[1]
    means = engine.encode(exact.images)[0], exact.encoded[:, :latent]
    ours, wanted = (engine.posterior(mean).argmax(axis=1) for mean in means)
    assert (ours == wanted).mean() >= 0.985
    assert 0 < np.abs(means[0] - means[1]).max() < 0.05  # of latents up to 12.6
