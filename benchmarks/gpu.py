"""How fast is the published network on a GPU, and how far is that from what the GPU can do?

    python -m benchmarks.gpu [--quick] [--device cuda|cpu] [--tiles 256]

Images per second of encode (uint8 images in memory to latents), of decode (latents to uint8 images
in memory) and of decode to Parquet, by precision and tile. To Parquet, without truth columns, one
process draws, decodes, compresses and writes, with threads around one engine; `generate` has worker
processes of Ray for all but the drawing and decoding, which get shards through its object store.
Last decode with the measures of the truth columns. Beside each figure of encode and decode: its
share of the largest matrix product's speed measured here, by the operations of the network as it
was trained, and its share of the device's copy bandwidth, by the bytes of every layer's input and
output. The weights are random, on which no speed depends but Parquet's; images are as bright as
galaxies and compress about as far. Needs torch, numpy, pyarrow and avader, not ray. The last line
is JSON.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from avader.catalogue import rows, schema
from avader.inference.engine import Engine, Precision
from avader.io import shards
from avader.mixture.sample import mixture_arrays, sample
from avader.model.vade import VaDE
from avader.pipelines.cores import cores
from avader.pipelines.memory import keep_freed_memory
from avader.plan import Unit, unit_name
from avader.recipe import PUBLISHED_NETWORK
from avader.synthetic.measure import measured
from benchmarks.common import last_line, lit, machine, peak_memory, seconds

SKY = 10**8
SHARD = 10_000
MOST = 50_000
"""Images of a measurement."""
REPEATS = 3
AT_LEAST = 0.3
"""Seconds of work that a speed is taken from."""
TYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Peak:
    """What the device can do: operations per second by precision, and bytes copied per second.

    A byte that is copied is read and written: it counts twice.
    """

    operations: dict[Precision, float]
    bytes: float


@dataclass(frozen=True)
class Cost:
    """Of one image: operations (2 per multiply and add) and values moved by all layers."""

    operations: float
    values: float


def main() -> None:
    """Measure, and print a table and the figures as JSON."""
    given = _options()
    if not (torch.cuda.is_available() or (given.quick and given.device == "cpu")):
        raise SystemExit("wanted a GPU, got none; --quick tries the script on CPUs")
    device = torch.device(given.device)
    keep_freed_memory()  # as generate's workers do
    torch.manual_seed(0)
    model = lit(VaDE(PUBLISHED_NETWORK, components=12, variance_floor=1e-4))
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}; {machine()}")
    peak = peaks(device, side=512 if given.quick else 8192)
    costs = {"encode": cost(model, "encode"), "decode": cost(model, "decode")}
    speeds = ", ".join(f"{key} {value / 1e12:.1f}" for key, value in peak.operations.items())
    print(f"matrix product, TFLOP/s: {speeds}; copy {peak.bytes / 1e9:.0f} GB/s, read and written")
    for verb, spent in costs.items():
        print(f"{verb}: {spent.operations / 1e9:.3f} GFLOP and {spent.values / 1e6:.2f} M values")
    figures: dict[str, Any] = {}
    for precision, tile in [(p, t) for p in TYPES for t in given.tiles]:
        began = time.perf_counter()
        engine = Engine(model, tile=tile, device=given.device, precision=precision)
        for verb in costs:
            speed = images_per_second(engine, verb)
            figures[f"{verb}_{precision}_{tile}"] = speed
            print(row(verb, precision, tile, speed, costs[verb], peak), flush=True)
        print(f"  {time.perf_counter() - began:.0f} s, with what was compiled", flush=True)
    best = max(given.tiles, key=lambda tile: figures[f"decode_bfloat16_{tile}"])
    engine = Engine(model, tile=best, device=given.device, precision="bfloat16")
    # So many that a core's last shard, while others have none, is not what is measured.
    most = 2 if given.quick else 10 * cores()
    written = to_parquet(engine, shards_=most, of=4 if given.quick else SHARD)
    hours = SKY / written / 3600
    print(f"decode to Parquet, bfloat16, tile {best}: {written:,.0f} images/s on {cores()} cores")
    memory = peak_memory() / 2**20
    print(f"{SKY:.0e} images: {hours:.2f} hours. This process had {memory:,.0f} MiB in memory.")
    figures["measured_bfloat16"] = speed = images_per_second(engine, "measure")
    print(f"decode and measure, bfloat16, tile {best}: {speed:,.0f} images/s")
    last_line(
        device=name,
        machine=machine(),
        quick=given.quick,
        tile=best,
        **figures,
        parquet=written,
        hours=hours,
        memory_mib=memory,
        **{f"peak_tflops_{key}": value / 1e12 for key, value in peak.operations.items()},
        copy_gb_s=peak.bytes / 1e9,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 60 s, rough figures")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=found)
    parser.add_argument("--tiles", type=int, nargs="+", default=[256])
    given = parser.parse_args()
    if given.quick:
        given.tiles = [2]
    return given


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of work that the device does, after a run that doesn't count."""
    took = []
    for number in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def peaks(device: torch.device, *, side: int) -> Peak:
    """The device's speed in a large matrix product of random numbers, and in a large copy."""
    operations: dict[Precision, float] = {}
    for name, dtype in TYPES.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        operations[name] = 2 * side**3 / median_seconds(partial(torch.matmul, a, b), device)
    source = torch.randn(side * side * 4, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.nbytes / median_seconds(partial(target.copy_, source), device)
    return Peak(operations, moved)


def cost(model: VaDE, verb: str) -> Cost:
    """What an image costs, counted on one."""
    network = model.network
    shape = (network.bands, network.size, network.size) if verb == "encode" else (network.latent,)
    values = 0

    def count(module: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        nonlocal values
        values += sum(part.numel() for part in taken) + given.numel()

    part = model.encoder if verb == "encode" else model.decoder
    hooks = [
        module.register_forward_hook(count)
        for module in part.modules()
        if not list(module.children())
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        getattr(model, verb)(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return Cost(counter.get_total_flops(), values)


def images_per_second(engine: Engine, verb: str) -> float:
    """Images per second from numpy array to numpy array."""
    rng = np.random.default_rng(0)
    network = engine.network

    def given(count: int) -> Any:
        if verb == "encode":
            shape = (count, network.bands, network.size, network.size)
            return rng.integers(0, 256, shape, np.uint8)
        return rng.normal(size=(count, network.latent)).astype(np.float32)

    works: Mapping[str, Callable[[Any], object]] = {
        "encode": engine.encode,
        "decode": engine.decode_pixels,
        "measure": partial(engine.decode_measured, measure=measured),
    }
    work = works[verb]
    few = given(4 * engine.tile)
    work(few)  # it is compiled, and ready
    rate = len(few) / seconds(partial(work, few))
    tiles = math.ceil(max(AT_LEAST * rate, len(few)) / engine.tile)
    many = given(min(tiles, MOST // engine.tile) * engine.tile)
    return len(many) / median_seconds(partial(work, many), engine.device)


def to_parquet(engine: Engine, *, shards_: int, of: int) -> float:
    """Images per second drawn, decoded and written as Parquet, threads around one engine."""
    mixture = mixture_arrays(engine.mixture)
    network = engine.network
    image = (network.bands, network.size, network.size)
    names = ("index", "component", "latent", "image")
    columns = schema.synthetic_schema(image, latent=network.latent, names=names)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        return sample(mixture, count=of, seed=0, start=number * of)

    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(cores()) as pool,
        ThreadPoolExecutor(2) as drawing,  # which must not wait for shards that are written
    ):

        def write(number: int, z: np.ndarray, component: np.ndarray, pixels: np.ndarray) -> None:
            values = {
                "index": np.arange(number * of, (number + 1) * of),
                "component": component,
                "latent": z,
                "image": pixels.reshape(of, -1),
            }
            unit = Unit(unit_name(number), {})
            table = rows.table(columns, values)
            refused = rows.reject_table([], unit.name)
            shards.write_unit(folder, unit, rows_in=of, table=table, rejects=refused)

        engine.decode_pixels(np.zeros((engine.tile, network.latent), np.float32))  # it is ready
        began = time.perf_counter()
        written = []
        for number, (z, component) in enumerate(_ahead(drawing, draw, shards_)):
            if number >= 2 * cores():
                written[number - 2 * cores()].result()  # so many shards in memory at most
            pixels = engine.decode_pixels(z)
            written.append(pool.submit(write, number, z, component, pixels))
        for future in written:
            future.result()
        return shards_ * of / (time.perf_counter() - began)


def _ahead(
    pool: ThreadPoolExecutor, draw: Callable[[int], Any], count: int, most: int = 4
) -> Iterator[Any]:
    """What `draw` gives for 0 .. count - 1, drawn by the pool a few ahead."""
    drawn = [pool.submit(draw, number) for number in range(min(most, count))]
    for number in range(count):
        if number + most < count:
            drawn.append(pool.submit(draw, number + most))
        yield drawn[number].result()


def row(verb: str, precision: Precision, tile: int, speed: float, spent: Cost, peak: Peak) -> str:
    """A line of the table."""
    matrix = speed * spent.operations / peak.operations[precision]
    moved = speed * spent.values * TYPES[precision].itemsize / peak.bytes
    return (
        f"{verb}  {precision:<8}  tile {tile:>4}  {speed:>11,.0f} images/s  "
        f"{matrix:6.1%} of the matrix peak  {moved:6.1%} of the copy bandwidth"
    )


if __name__ == "__main__":
    main()
