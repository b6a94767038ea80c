"""What does a synthetic sky cost beside the decoder's own work?

    python -m benchmarks.generate_scale [--quick] [--parts ...] [--objects 16000] [--rounds 3]

On a Ray that is up already; its start is printed apart. The published model (random weights of its
sizes, where AVADER_REAL_DATA has none), one process a core with one thread each, also for the bare
engine, which decodes the same latents in memory, in processes that are up.
- generate end to end by store over the bare engine, by the mean of its runs right before and right
  after, since machines change their speed; medians of the rounds' ratios. Wanted: images and JPEG
  without truth columns at least 0.93, PNG 0.88, and with truth columns at least 0.85 of the same
  without. Beside each the same ratio with the workers' start, as a run of one object a worker takes
  it, left out: what 10^5 objects and more come near to. And an object's bytes in Parquet.
- one process alone: decoding an image, and encoding it as PNG and as JPEG, in its CPU time.
- 1,000 shards of a small network: growth of the driver's and of the workers' peak of memory from
  100 shards to 1,000; more than 50 MB ends the script.
- a recipe of 10,000,000 objects (wanted: at most 40 s on 2 cores; for 100,000,000, under 7
  minutes), and the latents of 100,000 scattered ones again (wanted: under 2 s).
- 1,000,000 of its objects against the mixture: the largest deviation of a component's share, and of
  a latent's mean and variance within its component, in standard errors.
"""

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
import torch

import avader
from avader.api import Catalogue, Model
from avader.config import GenerateSettings
from avader.images.encode import encode_image
from avader.io.models import write_model
from avader.model.files import model_config, model_tensors
from avader.model.vade import VaDE
from avader.pipelines import generate
from avader.pipelines.memory import keep_freed_memory
from avader.plan import ranges
from avader.recipe import Network, Preprocessing
from benchmarks.common import last_line, machine, real_data, seconds
from benchmarks.end_to_end import CORES, write_published
from tests.processes import descendants, peak_memory

Figures = dict[str, Any]
MB = 1e6
SPAN = 256
"""Objects of a shard, and of a piece of the bare engine's work.

Whole tiles, as the 10,000 that shards usually have (a last tile is decoded whole, however few it
has); and so few that waiting for the slower process's last one is not what is measured.
"""
STORES: Mapping[str, Mapping[str, Any]] = {
    "images": {},
    "jpeg": {"store": "encoded", "encoding": "jpeg"},
    "png": {"store": "encoded", "encoding": "png"},
}


def main() -> None:
    """Run every part and print its figures."""
    given = _options()
    few = given.quick
    ray_start = seconds(
        lambda: ray.init("local", num_cpus=CORES + 1, include_dashboard=False, log_to_driver=False)
    )
    print(f"Ray's start, which no figure holds: {ray_start:.1f} s")
    figures: Figures = {"ray_start_s": ray_start}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_published(folder / "model")
        parts: Mapping[str, Callable[[], Figures]] = {
            "memory": lambda: _memory(folder / "memory", 20 if few else 1000),
            "recipe": lambda: _recipe(model, str(folder / "recipe"), given.recipe),
            "encoding": lambda: _encoding(model, 16 if few else 256),
            "stores": lambda: _stores(model, folder / "stores", given),
        }
        # In this order, since the driver's peak of memory is that of all that came before.
        for part, run in parts.items():
            if part in given.parts:
                figures |= run()
    weights = "random" if real_data() is None else "published"
    last_line(machine=machine(), weights=weights, **figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 60 s, rough figures")
    parts = ["memory", "recipe", "encoding", "stores"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="all")
    parser.add_argument("--recipe", type=int, default=10_000_000, help="objects of the recipe")
    parser.add_argument("--objects", type=int, default=16_000, help="of each store's run")
    parser.add_argument("--rounds", type=int, default=3, help="of all stores")
    names = [*STORES]
    parser.add_argument("--stores", nargs="+", choices=names, default=names, help="all")
    parser.add_argument("--no-truth", action="store_true", help="none with truth columns")
    given = parser.parse_args()
    if given.quick:
        given.recipe, given.objects, given.rounds, given.stores = 200_000, 32, 1, ["images"]
    return given


def _stores(model: str, folder: Path, given: argparse.Namespace) -> Figures:
    """The bare engine, a store, and the store with truth columns, one right after the other."""
    count = given.objects
    z, _ = avader.load_model(model).sample(count, 0)
    folder.mkdir()
    np.save(folder / "z.npy", z)
    starts: list[float] = []
    pairs = defaultdict(list)

    def drawn(name: str, objects: int, **store: Any) -> float:
        settings = GenerateSettings(
            model=model,
            out=str(folder / name),
            count=objects,
            rows_per_shard=min(SPAN, objects // CORES),
            workers=CORES,
            **store,
        )
        return seconds(partial(generate.run, settings))

    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as processes:
        bare = partial(_bare_seconds, processes, model, str(folder / "z.npy"))
        bare(min(count, 1024))  # they are up, and have the model
        before = bare(count)
        for number in range(given.rounds):
            starts.append(drawn(f"start-{number}", CORES))
            # Backwards every other round, since machines change their speed now and then.
            for name in given.stores[:: -1 if number % 2 else 1]:
                without = drawn(f"{name}-{number}", count, truth=False, **STORES[name])
                after = bare(count)
                pairs[name].append(((before + after) / 2, without))
                print(
                    f"round {number + 1}: bare {before:.1f} s, {name} {without:.1f} s, "
                    f"bare {after:.1f} s",
                    flush=True,
                )
                before = after
                if not given.no_truth:
                    with_ = drawn(f"{name}_truth-{number}", count, **STORES[name])
                    pairs[f"{name}_truth"].append((without, with_))
                    before = bare(count)
    start = median(starts)
    print(f"workers' start {start:.1f} s")
    figures: Figures = {"objects": count, "rounds": given.rounds, "start_s": start}
    for name, both in pairs.items():
        figures |= _beside(name, count, both, start)
        figures[f"{name}_bytes"] = bytes_ = _bytes(f"{folder}/{name}-0", count)
        print(f"{'':13} {bytes_:,.0f} bytes an object")
    return figures


def _encoding(model: str, count: int) -> Figures:
    """Milliseconds of CPU that an image takes to be decoded, and to be encoded as a file."""
    torch.set_num_threads(1)
    loaded = avader.load_model(model)
    z, _ = loaded.sample(count, 0)
    loaded.decode_pixels(z[:16])  # memory is there
    began = time.process_time()
    pixels = loaded.decode_pixels(z)
    figures = {"decode_ms": time.process_time() - began}
    for encoding in ("png", "jpeg"):
        encode_image(pixels[0], encoding)  # what the first one loads is there
        began = time.process_time()
        for image in pixels:
            encode_image(image, encoding)
        figures[f"{encoding}_ms"] = time.process_time() - began
    figures = {name: 1000 * took / count for name, took in figures.items()}
    print("an image: " + ", ".join(f"{name} {took:.2f}" for name, took in figures.items()))
    return figures


def _bytes(catalogue: str, count: int) -> float:
    """Of an object in the files of its rows."""
    held = avader.open_catalogue(catalogue).manifest
    return sum(part["size"] for part in held.parts) / count


def _beside(name: str, count: int, pairs: list[tuple[float, float]], start: float) -> Figures:
    """How a store's seconds are beside those of the same without what the store adds."""
    over, before = "bare", 0.0
    if name.endswith("_truth"):
        over, before = name.removesuffix("_truth"), start
    bases, times = zip(*pairs, strict=True)
    ratios = [base / time_ for base, time_ in pairs]
    figures = {
        name: count / median(times),
        f"{name}_base": count / median(bases),
        f"{name}_over_{over}": median(ratios),
    }
    line = (
        f"{name:13} {count / median(times):8.1f} images/s, {over} {count / median(bases):.1f}: "
        f"{median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    if min(times) > 3 * start:  # else nothing is left to be compared
        steady = [(base - before) / (time_ - start) for base, time_ in pairs]
        figures[f"{name}_besides_start"] = median(steady)
        line += f", besides the start {median(steady):.3f} ({min(steady):.3f} to {max(steady):.3f})"
    print(line)
    return figures


def _bare_seconds(processes: ProcessPoolExecutor, model: str, latents: str, count: int) -> float:
    """Of decoding to uint8 in as many processes as there are workers."""

    def work() -> None:
        ended = [processes.submit(_bare, model, latents, *span) for span in ranges(count, SPAN)]
        _ = [each.result() for each in ended]

    return seconds(work)


def _bare(model: str, latents: str, start: int, stop: int) -> None:
    loaded, z = _loaded(model, latents)
    loaded.decode_pixels(z[start:stop])


@cache
def _loaded(model: str, latents: str) -> tuple[Model, np.ndarray]:
    torch.set_num_threads(1)
    keep_freed_memory()
    return avader.load_model(model), np.load(latents)


def _memory(folder: Path, shards: int) -> Figures:
    """Peaks of memory after a tenth of the shards and after all, in workers that stay."""
    torch.manual_seed(0)
    network = Network(size=16, latent=3, filters=(4, 6), kernels=(3, 5), decoder_kernels=(5, 3))
    small = VaDE(network, components=4, variance_floor=1e-4)
    model = str(folder / "model")
    config = model_config(small, Preprocessing(size=16))
    write_model(model, config=config, tensors=model_tensors(small), card={})
    peaks = {}
    for count in (shards // 10, shards):
        settings = GenerateSettings(
            model=model,
            out=str(folder / f"{count}"),
            count=100 * count,
            rows_per_shard=100,
            workers=CORES,
        )
        worker = _watched(partial(generate.run, settings))
        peaks[count] = (peak_memory() / MB, worker / MB)
    (driver, worker), (driver_all, worker_all) = peaks.values()
    print(
        f"{shards // 10:,} to {shards:,} shards: the driver's peak grew by "
        f"{driver_all - driver:.0f} MB, a worker's from {worker:.0f} to {worker_all:.0f} MB"
    )
    assert max(driver_all - driver, worker_all - worker) < 50, "memory is not flat"
    return {
        "shards": shards,
        "driver_growth_MB": driver_all - driver,
        # Other processes than before: they may take less.
        "worker_growth_MB": max(0.0, worker_all - worker),
    }


def _watched(work: Callable[[], Any]) -> int:
    """The greatest peak of a worker's memory while the work is done."""
    peak = 0
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(work)
        while not running.done():
            peak = max([peak, *map(peak_memory, descendants(b"ray::MapWorker"))])
            time.sleep(0.1)
        running.result()
    return peak


def _recipe(model: str, out: str, count: int) -> Figures:
    """A recipe's writing, its latents again, and what they are beside the mixture."""
    settings = GenerateSettings(
        model=model, out=out, count=count, store="recipe", workers=CORES, rows_per_shard=100_000
    )
    took = seconds(lambda: generate.run(settings))
    catalogue = avader.open_catalogue(out)
    size = _bytes(out, count)
    sky = catalogue.remaker.sky
    scattered = np.random.default_rng(0).choice(count, min(count, 100_000), replace=False)
    again = seconds(lambda: sky.drawn(scattered))
    found = catalogue.to_arrow(["index", "component"])
    assert np.array_equal(found["index"].to_numpy(), np.arange(count))
    worst = _deviations(catalogue, found["component"].to_numpy())
    # The largest of 12 shares, and of 240 means and variances: more is no chance.
    assert max(worst.values()) < 5, worst
    print(
        f"recipe of {count:,} objects: {took:.1f} s, {size:.1f} bytes an object; the latents of "
        f"{len(scattered):,} scattered ones again: {again:.2f} s; farthest from the mixture, in "
        f"standard errors: shares {worst['share']:.1f}, means {worst['mean']:.1f}, variances "
        f"{worst['variance']:.1f}"
    )
    return {
        "recipe_objects": count,
        "recipe_s": took,
        "recipe_bytes": size,
        "scattered": len(scattered),
        "scattered_s": again,
        **{f"worst_{name}_sigma": value for name, value in worst.items()},
    }


def _deviations(catalogue: Catalogue, component: np.ndarray) -> dict[str, float]:
    """The largest deviations from the mixture, each over its standard error."""
    sky, count = catalogue.remaker.sky, len(component)
    weights, means, variances = sky.mixture
    shares = np.bincount(component, minlength=len(weights)) / count
    drawn = sky.drawn(np.arange(min(count, 1_000_000)))
    z, of = drawn["latent"].astype(np.float64), drawn["component"]
    assert np.array_equal(of, component[: len(of)])
    worst = {
        "share": float((abs(shares - weights) / np.sqrt(weights * (1 - weights) / count)).max()),
        "mean": 0.0,
        "variance": 0.0,
    }
    for number, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        own = z[of == number]
        error = np.sqrt(variance / len(own))
        worst["mean"] = max(worst["mean"], float((abs(own.mean(0) - mean) / error).max()))
        error = variance * np.sqrt(2 / len(own))
        worst["variance"] = max(
            worst["variance"], float((abs(own.var(0) - variance) / error).max())
        )
    return worst


if __name__ == "__main__":
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    main()
