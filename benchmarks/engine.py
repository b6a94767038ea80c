"""The engine on CPUs: how fast beside PyTorch, ONNX Runtime and OpenVINO, and how exact?

    pip install onnx onnxruntime onnxscript openvino
    python -m benchmarks.engine [--quick]

Images per second of encode (bytes in memory to mean and log variance) and of decode (latents to
float32 images in memory) on 2 threads, in turn, several rounds in one process; medians, and
medians of the rounds' ratios. The engine computes tiles as classify and generate do; "torch" is
the network as it was trained, eager, channels last, in batches of 128; "compiled" is the engine
with its parts through torch.compile; the others get the network by ONNX, in the engine's tiles,
which suit them better than larger batches, and all their optimisation. What is not installed, or
has no bfloat16 of its own, or no compiler, is named as absent. glibc keeps freed memory for all of
them; what it costs the engine otherwise is counted first, in page faults.

Then the largest errors against float64, and what bfloat16 changes. Weights are the published
ones and images real galaxies where AVADER_REAL_DATA has them; else random and mock.

Legend: B images, C bands, H W pixels, D latent dimensions.
"""

import copy
import logging
import resource
import shutil
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avader.images.cutouts import prepare
from avader.images.decode import decode_image
from avader.inference.engine import Engine, Precision, exact_arithmetic
from avader.mixture.sample import mixture_arrays, sample
from avader.model.files import model_from_arrays
from avader.model.published import VARIANCE_FLOOR, read_published
from avader.model.vade import VaDE
from avader.pipelines.memory import keep_freed_memory
from avader.plan import TILES
from avader.recipe import PUBLISHED_NETWORK
from avader.training.precision import has_native_bfloat16
from benchmarks.common import cutouts, last_line, machine, options, real_data, seconds
from benchmarks.end_to_end import PREPROCESSING

VERBS = ("encode", "decode")
THREADS = 2
TILE = TILES["cpu"]
BATCH = 128
TYPES: Mapping[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Array = NDArray[Any]
Run = Callable[[Array], Array]
"""Of images (B, C, H, W) uint8: mean and log variance (B, 2 D); or of latents (B, D): images."""
Name = tuple[str, str, Precision]
"""A verb, what does it, and in which precision."""


def main() -> None:
    """Time everything in turn, then compare with float64; print tables and the figures as JSON."""
    quick = options(__doc__ or "").quick
    count, rounds = (TILE, 2) if quick else (256, 9)
    torch.set_num_threads(THREADS)
    model, weights = network()
    table, origin = cutouts(count)
    files = table["image"].to_pylist()
    images = np.stack([prepare(decode_image(data), PREPROCESSING).pixels for data in files])
    z, _ = sample(mixture_arrays(model.mixture()), count=count, seed=0)
    given = {"encode": images, "decode": z}
    print(f"{machine()}; {THREADS} threads; {weights} weights; {origin}", flush=True)
    figures: dict[str, float] = {"faults_before": faults_per_image(model, images)}
    keep_freed_memory()
    figures["faults"] = faults_per_image(model, images)
    print(f"page faults an image: {figures['faults_before']:.0f}, {figures['faults']:.0f} kept")
    runs, absent = backends(model)
    print(f"absent: {', '.join(absent) or 'nothing'}", flush=True)
    figures |= speeds(runs, given, rounds)
    figures |= errors(runs, model, given)
    about = {"quick": quick, "images": count, "weights": weights, "cutouts": origin}
    last_line(**about, tile=TILE, absent=absent, machine=machine(), **figures)


def backends(model: VaDE) -> tuple[dict[Name, Run], list[str]]:
    """All that can be run here, and what is absent."""
    native = has_native_bfloat16("cpu")
    precisions = list(TYPES) if native else list(TYPES)[:1]
    runs: dict[Name, Run] = {}
    for precision in precisions:
        runs |= ours(Engine(model, tile=TILE, precision=precision), precision)
        runs |= plain(model, precision, TYPES[precision])
        if shutil.which("g++"):
            runs |= compiled(Engine(model, tile=TILE, precision=precision), precision)
    absent = [] if native else ["bfloat16 (not native here)"]
    if not shutil.which("g++"):
        absent.append("compiled (no g++)")
    by = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in by.items():
            missing = [part for part in ("onnx", "onnxscript", name) if not find_spec(part)]
            if missing:
                absent.append(f"{name} (no {', no '.join(missing)})")
            else:
                export(model, Path(folder))
                runs |= run(Path(folder), precisions)
    return runs, absent


def network() -> tuple[VaDE, str]:
    """The published network, and whether its weights are the published or random ones."""
    folder = real_data()
    weights = folder / "astrovader_published" / "saved_weights.h5" if folder else None
    if weights is None or not weights.exists():
        torch.manual_seed(0)
        return VaDE(PUBLISHED_NETWORK, components=12, variance_floor=1e-4).eval(), "random"
    found = read_published(weights.read_bytes())
    model = model_from_arrays(
        found.state,
        network=found.network,
        components=found.components,
        variance_floor=VARIANCE_FLOOR,
    )
    return model.eval(), "published"


def faults_per_image(model: VaDE, images: Array) -> float:
    """Page faults of the engine's float32 encoding, an image, once it is warm."""
    engine, some = Engine(model, tile=TILE), images[: 4 * TILE]
    engine.encode(some)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    engine.encode(some)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / len(some)


def ours(engine: Engine, precision: Precision) -> dict[Name, Run]:
    """The engine."""
    return {
        ("encode", "engine", precision): lambda images: np.concatenate(engine.encode(images), 1),
        ("decode", "engine", precision): engine.decode,
    }


def compiled(engine: Engine, precision: Precision) -> dict[Name, Run]:
    """The engine, its parts compiled when they are first called."""
    engine.encoder = torch.compile(engine.encoder, dynamic=False)  # type: ignore[assignment]
    engine.decoder = torch.compile(engine.decoder, dynamic=False)  # type: ignore[assignment]
    runs = ours(engine, precision)
    return {(verb, "compiled", precision): run for (verb, *_), run in runs.items()}


def plain(model: VaDE, precision: Precision, dtype: torch.dtype) -> dict[Name, Run]:
    """The network in PyTorch, eager, channels last."""
    placed = copy.deepcopy(model).to(dtype)
    placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    given = torch.promote_types(dtype, torch.float32)  # numpy has no bfloat16

    def encode(images: Array) -> Array:
        x = torch.from_numpy(images).float() / 255
        x = x.to(dtype, memory_format=torch.channels_last)
        return torch.cat(placed.encode(x), dim=1).to(given).numpy()

    def decode(z: Array) -> Array:
        return placed.decode(torch.from_numpy(z).to(dtype)).to(given).numpy()

    return {
        ("encode", "torch", precision): batched(encode, BATCH),
        ("decode", "torch", precision): batched(decode, BATCH),
    }


def batched(compute: Run, batch: int) -> Run:
    """The same by so many rows at once, without gradients, in exact arithmetic."""

    def run(rows: Array) -> Array:
        with torch.inference_mode(), exact_arithmetic():
            starts = range(0, len(rows), batch)
            return np.concatenate([compute(rows[at : at + batch]) for at in starts])

    return run


def export(model: VaDE, folder: Path) -> None:
    """Write encode.onnx and decode.onnx, which take a tile each, where they are not yet."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shape = model.network.bands, model.network.size, model.network.size
    examples = {
        "encode": (model.encoder, torch.zeros(TILE, *shape)),
        "decode": (model.decoder, torch.zeros(TILE, model.network.latent)),
    }
    for verb, (part, example) in examples.items():
        file = folder / f"{verb}.onnx"
        if not file.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # what torch's own code is to call
                torch.onnx.export(part, (example,), file, dynamo=True, verbose=False)


def by_onnxruntime(folder: Path, _: list[Precision]) -> dict[Name, Run]:
    """ONNX Runtime, which computes what it is given: float32."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    # Else its threads would go on waiting, in a loop, while the next in turn is timed.
    settings.add_session_config_entry("session.force_spinning_stop", "1")

    def run(verb: str) -> Run:
        session = onnxruntime.InferenceSession(
            folder / f"{verb}.onnx", settings, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        return batched(lambda x: np.concatenate(session.run(None, {name: floats(x)}), 1), TILE)

    return {(verb, "onnxruntime", "float32"): run(verb) for verb in VERBS}


def by_openvino(folder: Path, precisions: list[Precision]) -> dict[Name, Run]:
    """OpenVINO."""
    import openvino

    def run(verb: str, precision: Precision) -> Run:
        hints = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": 1,
        }
        made = openvino.Core().compile_model(folder / f"{verb}.onnx", "CPU", hints)
        return batched(lambda x: np.concatenate(list(made(floats(x)).values()), 1), TILE)

    return {
        (verb, "openvino", precision): run(verb, precision)
        for verb in VERBS
        for precision in precisions
    }


def floats(rows: Array) -> NDArray[np.float32]:
    """Bytes as floats in [0, 1]; latents as they are."""
    return rows / np.float32(255) if rows.dtype == np.uint8 else rows


def speeds(runs: Mapping[Name, Run], given: Mapping[str, Array], rounds: int) -> dict[str, float]:
    """Median images per second of each, and the engine's ratios; prints a table."""
    for (verb, _, _), run in runs.items():
        run(given[verb])  # warm
    rates: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rows = given[name[0]]
            rates[name].append(len(rows) / seconds(lambda run=run, rows=rows: run(rows)))
    figures = {"_".join(name): statistics.median(found) for name, found in rates.items()}
    print("             images/s: median (least to most); the engine, same precision, over it")
    for name, found in sorted(rates.items()):
        verb, backend, precision = name
        over = _ratio(rates, (verb, "engine", precision), name)
        print(
            f"{verb}  {precision:<8}  {backend:<11} {statistics.median(found):8.1f} "
            f"({min(found):.1f} to {max(found):.1f})  {over:.2f}"
        )
        if backend == "engine":
            key = f"{verb}_{precision}_over_torch_float32"
            figures[key] = _ratio(rates, name, (verb, "torch", "float32"))
            print(f"  over torch in float32: {figures[key]:.2f}")
        else:
            figures[f"{verb}_{precision}_over_{backend}"] = over
    return figures


def _ratio(rates: Mapping[Name, list[float]], one: Name, other: Name) -> float:
    return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def errors(runs: Mapping[Name, Run], model: VaDE, given: Mapping[str, Array]) -> dict[str, float]:
    """Largest errors against float64; of bfloat16 grey levels and components; prints them."""
    exact = plain(model, "float32", torch.float64)
    found: dict[str, float] = {}
    for verb, rows in given.items():
        wanted = batched(exact[verb, "torch", "float32"], TILE)(rows)
        for backend in ("engine", "torch"):
            error = np.abs(runs[verb, backend, "float32"](rows) - wanted)
            found[f"{verb}_error_{backend}"] = float(error.max())
        fast = runs.get((verb, "engine", "bfloat16"))
        if fast is not None:
            compare = _components if verb == "encode" else _levels
            found |= compare(model, fast(rows), wanted)
    for name, value in found.items():
        print(f"{name:<28} {value:.4g}")
    return found


def _components(model: VaDE, ours: Array, wanted: Array) -> dict[str, float]:
    """The share of images (B, 2 D) whose most likely component is the same."""
    engine = Engine(model)
    one, other = (engine.posterior(np.split(both, 2, 1)[0]).argmax(1) for both in (ours, wanted))
    return {"bfloat16_same_component": float((one == other).mean())}


def _levels(model: VaDE, ours: Array, wanted: Array) -> dict[str, float]:
    """By how many grey levels pixels differ at most, and the share that differ at all."""
    one, other = (np.rint(255 * np.clip(images, 0, 1)) for images in (ours, wanted))
    levels = np.abs(one - other)
    return {
        "bfloat16_levels": float(levels.max()),
        "bfloat16_pixels_that_differ": float((levels > 0).mean()),
    }


if __name__ == "__main__":
    main()
