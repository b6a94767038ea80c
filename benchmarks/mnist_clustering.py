"""How well do components found without labels match the ten classes of MNIST?

    python -m benchmarks.mnist_clustering [--quick] [--data mnist|fashion] [--keep FOLDER]
        [--seeds 0 1 2 3 4] [--baselines PYTHON] [--device cuda]

Trained on x_train by the recipe `mnist`, without labels and without looking at x_test; scored on
x_test: accuracy with each component matched to one class (Hungarian), NMI, adjusted Rand. Both of
the recipe's modes run, ours and the paper's, for every seed. --keep remembers each finished
seed, so that the same command goes on after it was stopped. --baselines runs ClustPy's VaDE with
that interpreter, each seed given our seconds, and the same network as a plain autoencoder with
k-means after it. Data: mnist.npz in AVADER_REAL_DATA; Fashion-MNIST from the Debian package
dataset-fashion-mnist. The last line is JSON; the names without a prefix are ours.
"""

import argparse
import gzip
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from avader.inference.engine import Engine
from avader.recipe import Recipe
from avader.training.data import MemoryImages
from benchmarks.common import last_line, machine, real_data
from benchmarks.training import (
    SHORT,
    Scores,
    kept,
    one_to_one_accuracy,
    recipe_of,
    set_apart,
    trained,
)

FASHION = Path("/usr/share/datasets/fashion-mnist")
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]

CLUSTPY = """
import json, sys, threading, time
import numpy as np, torch
from clustpy.deep import VaDE
path, seed, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
d = np.load(path)
x, test = (d[n].reshape(len(d[n]), -1).astype(np.float32) / 255 for n in ("x", "test"))
began = time.monotonic()
def run(pretrain, cluster):
    model = VaDE(10, batch_size=256, pretrain_epochs=pretrain, clustering_epochs=cluster,
                 random_state=seed)
    model.fit(x)
    return model
one = time.monotonic(); run(1, 1); one = (time.monotonic() - one) / 2
epochs = max(2, int((seconds - (time.monotonic() - began)) / one))
model = run(epochs // 2, epochs - epochs // 2)
print(json.dumps({"labels": model.predict(test).tolist(), "epochs": epochs}))
"""


def main() -> None:
    """Train every seed in both modes, and print a table and the figures as JSON."""
    given = _options()
    train, test = fashion() if given.data == "fashion" else digits()
    if given.quick:
        train, test = ((part[0][:1000], part[1][:1000]) for part in (train, test))
    keep = Path(given.keep or tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    methods: dict[str, Callable[[int], Scores]] = {
        mode: partial(by_recipe, mode, train=train, test=test, given=given)
        for mode in ("ours", "paper")
    }
    if given.baselines:
        methods["kmeans"] = partial(autoencoder, train=train, test=test, given=given)
        methods["clustpy"] = lambda seed: clustpy(
            given.baselines, seed, train, test, seconds=found["ours"][seed]["seconds"]
        )
    print(f"{given.data}: {len(train[0]):,} images to train on, {len(test[0]):,} to score")
    found: dict[str, dict[int, Scores]] = {name: {} for name in methods}
    for seed in given.seeds:
        for name, method in methods.items():
            label = f"{given.data}-{name}-{seed}"
            scores = kept(
                keep,
                label,
                settings(name, seed, given.quick),
                partial(method, seed),
                device=given.device,
            )
            found[name][seed] = scores
            print(
                f"{name:8} seed {seed}: accuracy {scores['accuracy']:.4f}, NMI "
                f"{scores['nmi']:.4f}, ARI {scores['ari']:.4f}, {scores['seconds']:.0f} s",
                flush=True,
            )
    figures: dict[str, Any] = {}
    for name, by_seed in found.items():
        prefix = "" if name == "ours" else f"{name}_"
        figures |= {prefix + key: value for key, value in summary(list(by_seed.values())).items()}
    last_line(
        data=given.data,
        seeds=given.seeds,
        quick=given.quick,
        machine=machine(given.device),
        **figures,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 60 s, rough figures")
    parser.add_argument("--data", choices=("mnist", "fashion"), default="mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--keep", metavar="FOLDER", help="where finished seeds are remembered")
    parser.add_argument("--baselines", metavar="PYTHON", help="an interpreter with clustpy")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="to train on")
    given = parser.parse_args()
    if given.quick:
        given.seeds = given.seeds[:1]
    return given


def digits() -> tuple[Arrays, Arrays]:
    """MNIST's training and test images (N, 1, 28, 28) and labels (N,)."""
    folder = real_data()
    if folder is None:
        raise SystemExit("wanted mnist.npz in AVADER_REAL_DATA, got no such folder")
    data = np.load(folder / "mnist.npz")
    return tuple(  # type: ignore[return-value]
        (data[f"x_{part}"][:, None], data[f"y_{part}"].astype(np.int64))
        for part in ("train", "test")
    )


def fashion() -> tuple[Arrays, Arrays]:
    """Fashion-MNIST's, from the Debian package dataset-fashion-mnist."""
    if not FASHION.is_dir():
        raise SystemExit(f"wanted {FASHION}, got none: apt install dataset-fashion-mnist")

    def read(name: str, header: int) -> NDArray[np.uint8]:
        packed = FASHION / f"{name}.gz"
        data = gzip.decompress(packed.read_bytes())
        return np.frombuffer(data, np.uint8, offset=header)

    return tuple(  # type: ignore[return-value]
        (
            read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28),
            read(f"{part}-labels-idx1-ubyte", 8).astype(np.int64),
        )
        for part in ("train", "t10k")
    )


def settings(name: str, seed: int, quick: bool) -> tuple[object, ...]:
    """What a method's scores depend on, besides the data."""
    if name in ("ours", "paper"):
        return set_apart(recipe(name, seed, quick=quick)), quick
    if name == "kmeans":
        return set_apart(autoencoder_recipe(seed, quick=quick)), quick
    return CLUSTPY, quick


def recipe(mode: str, seed: int, *, quick: bool) -> Recipe:
    """The recipe `mnist` in a mode."""
    return recipe_of("mnist", mode=mode, seed=seed, **({"schedule": SHORT} if quick else {}))


def autoencoder_recipe(seed: int, *, quick: bool) -> Recipe:
    """The recipe's network and reconstruction alone: the paper's mode without any KL."""
    epochs = {"gamma": 0.0, "gamma_epochs": 1 if quick else 8, "annealing_epochs": 1}
    schedule = {**epochs, "static_epochs": 0, "kl_weight": 1e-9}
    return recipe_of("mnist", mode="paper", seed=seed, schedule=schedule)


def by_recipe(
    mode: str, seed: int, *, train: Arrays, test: Arrays, given: argparse.Namespace
) -> Scores:
    """The recipe in a mode: trained on images alone, scored on the test images."""
    images = MemoryImages(train[0])
    say = partial(print, flush=True)
    chosen = recipe(mode, seed, quick=given.quick)
    state, seconds = trained(chosen, images, say, device=given.device)
    engine = Engine(state.model.cpu(), tile=64)
    mean, _ = engine.encode(test[0])
    return scores(test[1], engine.posterior(mean).argmax(1), seconds)


def autoencoder(seed: int, *, train: Arrays, test: Arrays, given: argparse.Namespace) -> Scores:
    """An autoencoder, then k-means on the latents of the training images."""
    images = MemoryImages(train[0])
    say = partial(print, flush=True)
    chosen = autoencoder_recipe(seed, quick=given.quick)
    state, seconds = trained(chosen, images, say, device=given.device)
    engine = Engine(state.model.cpu(), tile=64)
    means = KMeans(10, n_init=10, random_state=seed).fit(engine.encode(train[0])[0])
    return scores(test[1], means.predict(engine.encode(test[0])[0]), seconds)


def clustpy(python: str, seed: int, train: Arrays, test: Arrays, *, seconds: float) -> Scores:
    """ClustPy's VaDE: as many epochs, half of them to pre-train, as fit in these seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, x=train[0], test=test[0])
        ran = subprocess.run(
            [python, "-c", CLUSTPY, str(path), str(seed), str(seconds)],
            capture_output=True,
            text=True,
            check=True,
        )
    labels = json.loads(ran.stdout.splitlines()[-1])["labels"]
    return scores(test[1], np.array(labels), seconds)


def scores(labels: NDArray[np.int64], clusters: NDArray[np.int64], seconds: float) -> Scores:
    """How well clusters match labels."""
    return {
        "accuracy": one_to_one_accuracy(labels, clusters),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
        "seconds": seconds,
    }


def summary(runs: list[Scores]) -> dict[str, Any]:
    """Over the seeds, none left out."""
    accuracy = [run["accuracy"] for run in runs]
    return {
        "accuracy_median": statistics.median(accuracy),
        "accuracy_worst": min(accuracy),
        "accuracy_all": [round(value, 4) for value in accuracy],
        "nmi_median": statistics.median(run["nmi"] for run in runs),
        "ari_median": statistics.median(run["ari"] for run in runs),
        "seconds_per_seed": statistics.mean(run["seconds"] for run in runs),
    }


if __name__ == "__main__":
    main()
