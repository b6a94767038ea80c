"""What every benchmark shares: its options, cutouts to work on, and its last line."""

import argparse
import io
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from avader.mixture.sample import mixture_arrays, sample
from avader.model.vade import VaDE
from avader.training.precision import has_native_bfloat16


def options(question: str) -> argparse.Namespace:
    """`--quick`: at most 60 s on 2 cores, for a look; figures to keep come from the full run."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="at most 60 s, rough figures")
    return parser.parse_args()


def real_data() -> Path | None:
    """The folder of real galaxies (AVADER_REAL_DATA), or None."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("AVADER_REAL_DATA", default))
    return folder if (folder / "galaxy_zoo_5class.parquet").exists() else None


def cutouts(count: int) -> tuple[pa.Table, str]:
    """A table of `count` JPEG cutouts of 128 x 128 px RGB, and where they come from."""
    folder = real_data()
    if folder is not None:
        table = pq.read_table(
            folder / "galaxy_zoo_5class.parquet", columns=["object_id", "image"]
        ).slice(0, count)
        if table.num_rows == count:
            return table, "Galaxy Zoo 2 (JPEG, 128 px)"
    images = [_jpeg(number) for number in range(count)]
    names = [f"mock{number:06d}" for number in range(count)]
    return pa.table({"object_id": names, "image": images}), "mock (JPEG, 128 px)"


def _jpeg(number: int) -> bytes:
    generator = np.random.default_rng(number)
    y, x = np.mgrid[:128, :128] - 63.5
    light = 200 * np.exp(-np.hypot(x, y / generator.uniform(0.3, 1)) / generator.uniform(5, 20))
    noisy = np.clip(light[..., None] + generator.normal(15, 5, (128, 128, 3)), 0, 255)
    sink = io.BytesIO()
    Image.fromarray(noisy.astype(np.uint8)).save(sink, "jpeg", quality=90)
    return sink.getvalue()


def seconds(work: Callable[[], Any]) -> float:
    """How long the work takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def lit(model: VaDE) -> VaDE:
    """The model, of random weights, its last layer such that images are as bright as galaxies.

    Else they are nearly black, and compress to nothing: their mean and standard deviation become
    about those of images of the published model (0.11 and 0.1).
    """
    decoder, mixture = model.decoder, mixture_arrays(model.mixture())
    z, _ = sample(mixture, count=64, seed=0)
    last, decoder.last = decoder.last, nn.Identity()
    with torch.no_grad():
        images = model.decode(torch.from_numpy(z))
        factor = 0.1 / images.std()
        decoder.output.weight *= factor
        decoder.output.bias.fill_(0.11 - factor * images.mean())
    decoder.last = last
    return model


def peak_memory() -> int:
    """The most bytes that this process has had in memory.

    Not by getrusage, which counts what its parent had too.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def machine(device: str = "cpu") -> str:
    """The machine in a few words, with its GPU where that does the work."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    native = "" if has_native_bfloat16("cpu") else "no "
    return (
        f"{gpu}{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {native}native "
        f"bfloat16; Python {platform.python_version()}, torch {torch.__version__}"
    )


def last_line(**figures: Any) -> None:
    """Print the figures as one line of JSON, the last line of every benchmark."""

    def shortened(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return round(value, 4) if abs(value) >= 1 else float(f"{value:.4g}")

    print(json.dumps({name: shortened(value) for name, value in figures.items()}))
