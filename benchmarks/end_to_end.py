"""How much of the bare model's speed is left end to end: pack, classify, generate?

    python -m benchmarks.end_to_end [--quick]

Each verb runs on a Ray that is up already (its start is printed apart) with one worker a core,
and includes Ray Data's own start, reading, checking, writing and digests. The bare work is the
same arithmetic on the same images in memory on all cores: for pack, plain processes that decode
and prepare; for the others, this process with torch's threads.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

import avader
from avader.api import Model
from avader.config import ClassifySettings, GenerateSettings, ImportPublishedSettings, PackSettings
from avader.images.cutouts import prepare
from avader.images.decode import decode_image
from avader.io.models import write_model
from avader.model.files import model_config, model_tensors
from avader.model.vade import VaDE
from avader.pipelines import classify, generate, import_published, pack
from avader.pipelines.cores import cores
from avader.pipelines.memory import keep_freed_memory
from avader.plan import TILES
from avader.recipe import PUBLISHED_NETWORK, PUBLISHED_PREPROCESSING
from benchmarks.common import cutouts, last_line, lit, machine, options, real_data, seconds

CORES = cores()
TILE = TILES["cpu"]
# These cutouts are at half the published scale: the central 96 px are the published 192.
PREPROCESSING = PUBLISHED_PREPROCESSING.model_copy(update={"crop": 96})


def main() -> None:
    """Run the three verbs and the bare work, and print images per second and ratios."""
    quick = options(__doc__ or "").quick
    count = 2 * TILE if quick else 4000
    table, origin = cutouts(count)
    ray_start = seconds(
        lambda: ray.init("local", num_cpus=CORES + 1, include_dashboard=False, log_to_driver=False)
    )
    keep_freed_memory()  # the bare work's too, as workers do
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_published_sizes(folder / "model")
        for verb, times in {
            "pack": _pack(table, folder),
            "classify": _classify(model, folder, count),
            "generate": _generate(model, folder, count),
        }.items():
            end_to_end, bare = (count / time for time in times)
            print(
                f"{verb:<9} {end_to_end:8.1f} images/s end to end, {bare:8.1f} bare, "
                f"ratio {end_to_end / bare:.2f}"
            )
            figures |= {verb: end_to_end, f"{verb}_bare": bare, f"{verb}_ratio": end_to_end / bare}
    last_line(images=count, cutouts=origin, ray_start_s=ray_start, machine=machine(), **figures)


def write_published(folder: Path) -> str:
    """The published model where AVADER_REAL_DATA has its weights, else random ones of its sizes."""
    data = real_data()
    weights = data / "astrovader_published" / "saved_weights.h5" if data else None
    if weights is None or not weights.exists():
        return write_published_sizes(folder)
    import_published.run(ImportPublishedSettings(weights=str(weights), out=str(folder)))
    return str(folder)


def write_published_sizes(folder: Path) -> str:
    """The published network's sizes with random weights: speed hardly depends on them."""
    torch.manual_seed(0)
    model = lit(VaDE(PUBLISHED_NETWORK, components=12, variance_floor=1e-4))
    config = model_config(model, PREPROCESSING)
    write_model(str(folder), config=config, tensors=model_tensors(model), card={})
    return str(folder)


def _pack(table: pa.Table, folder: Path) -> tuple[float, float]:
    """Seconds of pack, and of decoding and preparing the same bytes in as many processes."""
    pq.write_table(table, folder / "table.parquet")
    settings = PackSettings(
        source=str(folder / "table.parquet"),
        out=str(folder / "packed"),
        preprocessing=PREPROCESSING,
        rows_per_shard=_shard(table.num_rows),
        workers=CORES,
    )
    images = table["image"].to_pylist()
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as processes:
        list(processes.map(_bare_pack, images[: 4 * CORES]))  # they are up
        bare = seconds(lambda: list(processes.map(_bare_pack, images, chunksize=50)))
    return seconds(lambda: pack.run(settings)), bare


def _bare_pack(data: bytes) -> None:
    prepare(decode_image(data), PREPROCESSING)


def _classify(model: str, folder: Path, count: int) -> tuple[float, float]:
    """Seconds of classify, and of encode, posterior and decode on the same images."""
    data = str(folder / "packed")
    images = avader.open_catalogue(data).images(range(count))
    loaded = avader.load_model(model)
    settings = ClassifySettings(
        model=model, data=data, out=str(folder / "catalogue"), workers=CORES
    )
    bare = seconds(lambda: _bare_classify(loaded, images))
    return seconds(lambda: classify.run(settings)), bare


def _bare_classify(model: Model, images: np.ndarray) -> None:
    for start in range(0, len(images), 64):
        mean, _ = model.encode(images[start : start + 64])
        model.posterior(mean)
        model.decode(mean)


def _generate(model: str, folder: Path, count: int) -> tuple[float, float]:
    """Seconds of generate, and of drawing and decoding the same objects."""
    loaded = avader.load_model(model)
    settings = GenerateSettings(
        model=model,
        out=str(folder / "synthetic"),
        count=count,
        rows_per_shard=_shard(count),
        workers=CORES,
    )
    z, _ = loaded.sample(count, 0)
    bare = seconds(lambda: [loaded.decode(z[at : at + 64]) for at in range(0, count, 64)])
    return seconds(lambda: generate.run(settings)), bare


def _shard(count: int) -> int:
    """Five units for each worker, of a tile at least, which is computed whole."""
    return max(TILE, count // (5 * CORES))


if __name__ == "__main__":
    main()
