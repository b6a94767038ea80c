"""What does a catalogue at survey scale cost beside the model's own work?

    python -m benchmarks.classify_scale [--quick] [--units N]

On a Ray that is up already; its start is printed apart.
- classify end to end on 20,000 images over the bare engine on the same images in memory (encode,
  posterior, decode), both in one process a core with one thread each; wanted: at least 0.90.
- units of one row, stub work, on local disk: 100, 1,000, ... N of them (10,000 by default). Time of
  a unit more (wanted: under 30 ms), and how much the peak of the driver's memory grows from the
  first run to the last, plan and receipts included (wanted up to 100,000: under 100 MB).
- a plan of 100,000 units: manifest read, plan, fingerprint and what remains (wanted: under 10 s).
- the command of a finished catalogue of 10,000 units, repeated (wanted: under 3 s, no Ray).
- the ids of 10,000,000 objects compared, 1,000 of which repeat another's.
"""

import argparse
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

import avader
from avader.api import Model
from avader.catalogue import rows
from avader.config import ClassifySettings, PackSettings
from avader.io import manifest, shards
from avader.io.models import read_model
from avader.pipelines import classify, pack
from avader.pipelines.cluster import Pool, quieten_data
from avader.pipelines.duplicates import find_duplicates
from avader.pipelines.memory import keep_freed_memory, share_arenas
from avader.pipelines.progress import Progress
from avader.pipelines.stages import Stage, UnitRows, write_stage
from avader.pipelines.units import finish_units
from avader.plan import TILES, Plan, Receipt, Unit, ranges, unit_name
from avader.survey.sources import Columns, open_source
from benchmarks.common import cutouts, last_line, machine, peak_memory, seconds
from benchmarks.end_to_end import CORES, PREPROCESSING, write_published_sizes

Figures = dict[str, Any]
MB = 1e6
REPEATS = 1000
TILE = TILES["cpu"]
RERUN = """
import sys
from avader.cli import main
assert main(["classify", *sys.argv[1:]]) == 0
assert "ray" not in sys.modules
"""


def main() -> None:
    """Run every part and print its figures."""
    given = _options()
    few, units = given.quick, given.units or (200 if given.quick else 10_000)
    ray_start = seconds(
        lambda: ray.init("local", num_cpus=CORES + 1, include_dashboard=False, log_to_driver=False)
    )
    address = ray.get_runtime_context().gcs_address
    print(f"Ray's start, which no figure holds: {ray_start:.1f} s")
    figures: Figures = {"ray_start_s": ray_start}
    with tempfile.TemporaryDirectory() as folder:
        model = write_published_sizes(Path(folder) / "model")
        figures |= _plan(f"{folder}/plan", model, 10_000 if few else 100_000)
        figures |= _rerun(f"{folder}/rerun", model, 250 if few else 10_000, times=1 if few else 3)
        figures |= _apart(_duplicates, f"{folder}/ids", 500_000 if few else 10_000_000, address)
        figures |= _apart(_units, f"{folder}/units", units, address)
        figures |= _classify(f"{folder}/classify", model, 2 * TILE if few else 20_000)
    last_line(machine=machine(), **figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 60 s, rough figures")
    parser.add_argument("--units", type=int, help="stub units of the longest run, over 100")
    return parser.parse_args()


def _apart(part: Callable[..., Figures], *arguments: object) -> Figures:
    """A part's figures, from a driver process of its own, for its memory to be seen."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(part, *arguments).result()


def _join_ray(address: str) -> None:
    share_arenas()  # as a verb does
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    quieten_data()


def _plan(folder: str, model: str, count: int) -> Figures:
    """A plan of so many units, from the manifest of their input."""
    data = f"{folder}/packed"
    _write_manifest(data, count)
    settings = ClassifySettings(model=model, data=data, out=f"{folder}/out")
    files, began = read_model(model), time.perf_counter()
    plan = classify._plan(settings, manifest.read_manifest(data), files)
    fingerprint = plan.fingerprint
    left = plan.remaining({unit.name for unit in plan.units[::2]})
    took = time.perf_counter() - began
    assert len(left) == count // 2
    assert len(fingerprint) == 64
    print(f"plan of {count:,} units: {took:.2f} s")
    return {"plan_units": count, "plan_s": took}


def _write_manifest(data: str, count: int) -> None:
    """The manifest of packed cutouts in so many parts, which are not there."""
    settings = {"shape": [1, 128, 128], "preprocessing": PREPROCESSING.model_dump(mode="json")}
    digests = [hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(count)]
    units = tuple(Unit(unit_name(number), {}) for number in range(count))
    receipts = [
        Receipt(unit.name, 1000, 1000, 0, 16_000_000, digest, digest)
        for unit, digest in zip(units, digests, strict=True)
    ]
    plan = Plan("cutouts", settings, units)
    manifest.write_manifest(data, plan, receipts, provenance={})


def _rerun(folder: str, model: str, count: int, *, times: int) -> Figures:
    """The command of a finished catalogue, whose parts have no rows, as a user would give it."""
    data, out = f"{folder}/packed", f"{folder}/out"
    _write_manifest(data, count)
    settings = ClassifySettings(model=model, data=data, out=out)
    plan = classify._plan(settings, manifest.read_manifest(data), read_model(model))
    manifest.open_plan(out, plan)
    none = rows.reject_table([], "")

    def write(unit: Unit) -> Receipt:
        return shards.write_unit(out, unit, rows_in=0, table=none, rejects=none)

    with ThreadPoolExecutor(16) as pool:
        receipts = list(pool.map(write, plan.units))
    manifest.write_manifest(out, plan, receipts, provenance={})
    command = [sys.executable, "-c", RERUN, "--model", model, "--data", data, "--out", out]
    took = median(
        seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        for _ in range(times)
    )
    print(f"rerun of a finished catalogue of {count:,} units: {took:.2f} s, without Ray")
    return {"rerun_units": count, "rerun_s": took}


def _duplicates(folder: str, count: int, address: str) -> Figures:
    """Ids of a table compared; the last ones are the first ones again."""
    os.makedirs(folder)
    path = f"{folder}/table.parquet"
    step = 100_000
    with pq.ParquetWriter(
        path, pa.schema({"object_id": pa.string(), "image": pa.string()})
    ) as file:
        for start, stop in ranges(count, step):
            numbers = np.arange(start, stop)
            numbers[numbers >= count - REPEATS] -= count - REPEATS
            names = [f"{10**17 + number}" for number in numbers.tolist()]
            file.write_table(pa.table({"object_id": names, "image": ["x.png"] * len(names)}))
    columns = Columns(id="object_id", ra=None, dec=None, image="image")
    units = open_source(path, columns=columns).units(10_000)
    _join_ray(address)
    find_duplicates(units[:1])  # tasks have a process
    before, began = peak_memory(), time.perf_counter()
    found = find_duplicates(units)
    took, growth = time.perf_counter() - began, (peak_memory() - before) / MB
    assert len(found.by_number) == REPEATS
    ray.shutdown()
    print(f"{count:,} ids compared: {took:.1f} s, the driver's peak grew by {growth:.0f} MB")
    return {"ids": count, "ids_s": took, "ids_growth_MB": growth}


def _units(folder: str, most: int, address: str) -> Figures:
    """Runs of 100 to so many stub units each, after one that starts what stays."""
    _join_ray(address)
    counts = [*(count for count in (100, 1000, 10_000) if count < most), most]
    took, peaks = {}, {}
    for count in (10, *counts):
        out = f"{folder}/{count}"
        plan = Plan("stub", {}, tuple(Unit(unit_name(number), {}) for number in range(count)))
        took[count] = seconds(partial(_finish, plan, out))
        peaks[count] = peak_memory() / MB
        print(f"{count:,} stub units: {took[count]:.1f} s, driver's peak {peaks[count]:.0f} MB")
    ray.shutdown()
    first, last = counts[0], counts[-1]
    each = (took[last] - took[first]) / (last - first) * 1000
    growth = peaks[last] - peaks[first]
    print(f"a unit more takes {each:.1f} ms; from {first:,} to {last:,} +{growth:.0f} MB")
    return {
        "units": last,
        "unit_ms": each,
        "run_of_100_units_s": took[first],
        "driver_growth_MB": growth,
    }


def _finish(plan: Plan, out: str) -> None:
    # Within, since workers do not know this module by its name.
    def stub(unit: Unit, _: None) -> UnitRows:
        return UnitRows(1, pa.table({"unit": [unit.name]}), rows.reject_table([], unit.name))

    stages = [Stage("stub", lambda: stub, pooled=True), write_stage(out, plan)]
    finish_units(
        plan, out, stages=stages, pool=Pool(CORES, 0), progress=Progress("done", None), limit=600
    )


def _classify(folder: str, model: str, count: int) -> Figures:
    """classify, and the bare engine, on the same packed images."""
    os.makedirs(folder)
    table, origin = cutouts(count)
    pq.write_table(table, f"{folder}/table.parquet")
    packing = PackSettings(
        source=f"{folder}/table.parquet",
        out=f"{folder}/packed",
        preprocessing=PREPROCESSING,
        rows_per_shard=max(TILE, count // (10 * CORES)),
        workers=CORES,
    )
    pack.run(packing)
    np.save(f"{folder}/images.npy", avader.open_catalogue(packing.out).images(range(count)))
    bare = _bare_seconds(model, f"{folder}/images.npy", count)
    settings = ClassifySettings(
        model=model, data=packing.out, out=f"{folder}/catalogue", workers=CORES
    )
    whole = seconds(lambda: classify.run(settings))
    print(
        f"classify: {count / whole:.1f} images/s end to end, {count / bare:.1f} bare, ratio "
        f"{bare / whole:.2f}"
    )
    return {
        "images": count,
        "cutouts": origin,
        "classify": count / whole,
        "bare": count / bare,
        "ratio": bare / whole,
    }


def _bare_seconds(model: str, images: str, count: int) -> float:
    """Of encode, posterior and decode in as many processes as there are workers."""
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as processes:

        def work(*spans: tuple[int, int]) -> None:
            ended = [processes.submit(_bare, model, images, *span) for span in spans]
            _ = [each.result() for each in ended]

        few = min(64, count // CORES)
        work(*[(0, few)] * (4 * CORES if count > few * CORES else CORES))  # they have the model
        return seconds(lambda: work(*ranges(count, 256)))


def _bare(model: str, images: str, start: int, stop: int) -> None:
    loaded, held = _loaded(model, images)
    for at in range(start, stop, 64):
        mean, _ = loaded.encode(np.array(held[at : min(at + 64, stop)]))
        loaded.posterior(mean)
        loaded.decode(mean)


@cache
def _loaded(model: str, images: str) -> tuple[Model, np.ndarray]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as workers do
    return avader.load_model(model), np.load(images, mmap_mode="r")


if __name__ == "__main__":
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    main()
