"""A model and cutouts small enough to make in every test, written by the real writers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from avader.io.models import write_model
from avader.model.files import model_config, model_tensors
from avader.model.vade import VaDE
from avader.recipe import Network, Preprocessing

NETWORK = Network(size=16, latent=3, filters=(4, 6), kernels=(3, 5), decoder_kernels=(5, 3))
PREPROCESSING = Preprocessing(size=16)
COMPONENTS = 4


def tiny_vade(network: Network = NETWORK, seed: int = 0) -> VaDE:
    """A VaDE with random weights and well-spread components."""
    torch.manual_seed(seed)
    model = VaDE(network, components=COMPONENTS, variance_floor=1e-4)
    generator = np.random.default_rng(seed)
    model.set_mixture(
        torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64),
        torch.tensor(generator.normal(size=(COMPONENTS, network.latent))),
        torch.tensor(generator.uniform(0.2, 1.5, size=(COMPONENTS, network.latent))),
    )
    return model


def write_tiny_model(
    folder: Path | str, preprocessing: Preprocessing = PREPROCESSING, **kwargs
) -> str:
    """A model folder with random weights; its URI."""
    model = tiny_vade(**kwargs)
    config, tensors = model_config(model, preprocessing), model_tensors(model)
    write_model(str(folder), config=config, tensors=tensors, card={"kind": "test"})
    return str(folder)


def galaxy(number: int, size: int = 16) -> np.ndarray:
    """A blob of light (size, size) uint8 that depends on its number alone."""
    generator = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2 - generator.normal(size=2)[:, None, None]
    width = generator.uniform(1.5, 4)
    light = np.exp(-(x**2 + (y / generator.uniform(0.4, 1)) ** 2) / (2 * width**2))
    return np.rint(200 * light + generator.uniform(0, 20, light.shape)).astype(np.uint8)


def write_pngs(folder: Path, count: int, *, start: int = 0) -> str:
    """A folder of PNG cutouts g0000.png, ...; its URI."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.fromarray(galaxy(number)).save(folder / f"g{number:04d}.png")
    return str(folder)


def png_bytes(number: int) -> bytes:
    """One PNG cutout."""
    import io

    sink = io.BytesIO()
    Image.fromarray(galaxy(number)).save(sink, "png")
    return sink.getvalue()


def write_table(path: Path, count: int, **columns) -> str:
    """A Parquet table of PNG cutouts with positions; other columns as given; its path."""
    table = {
        "object_id": [f"g{number:04d}" for number in range(count)],
        "ra": np.linspace(10, 20, count),
        "dec": np.linspace(-5, 5, count),
        "image": [png_bytes(number) for number in range(count)],
        "votes": np.arange(count),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table | columns), path, row_group_size=7)
    return str(path)
