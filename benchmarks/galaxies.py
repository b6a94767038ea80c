"""What do 20 numbers without labels know of a galaxy, and does the model still draw galaxies?

    python -m benchmarks.galaxies [--quick] [--keep FOLDER] [--seeds 0 1 2] [--terms]
        [--device cuda]

The 20,000 galaxies of galaxy_zoo_5class.parquet with the smallest md5(object_id), the first 4,000
of them held out; 64 x 64, canonical orientation, D = 20, K = 12, by the recipe `galaxies-64`. No
label is seen in training. Scored on the 4,000: a logistic regression on standardised z, fitted on
the other 16,000 (probe, and its balanced accuracy); NMI of the likeliest components; mean squared
error of reconstructions; Frechet distance of as many drawn images from the held-out ones in the
first 20 principal components, over their total variance. Scored again on the 3,034 galaxies after
the 20,000, by which nothing in the recipe was chosen (check). Beside ours: the paper's mode,
principal components, and the published weights on their own framing. --terms trains ours without
each of its terms in turn. --keep remembers each finished run. The last line is JSON.
"""

import argparse
import hashlib
import statistics
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from avader.images.cutouts import Cutout, prepare
from avader.images.decode import decode_image
from avader.inference.engine import Engine
from avader.mixture.sample import mixture_arrays, sample
from avader.model.files import model_from_arrays
from avader.model.published import VARIANCE_FLOOR, read_published
from avader.model.vade import VaDE
from avader.recipe import PUBLISHED_PREPROCESSING, Preprocessing, Recipe
from avader.training.data import MemoryImages
from benchmarks.common import last_line, machine, real_data
from benchmarks.training import SHORT, Scores, kept, recipe_of, set_apart, trained

COUNT, HELD_OUT = 20_000, 4_000
PREPROCESSING = Preprocessing(
    crop=96, weights=(1 / 3, 1 / 3, 1 / 3), size=64, orientation="canonical", source_mask=True
)
# Each of our terms, taken away.
WITHOUT: Mapping[str, Mapping[str, Any]] = {
    "ours without contrast": {"contrast": {"weight": 0.0}},
    "ours without the mask": {"outside_weight": 1.0},
    "ours without flips": {"flips": False},
    "ours without pseudo-labels": {"schedule": {"pseudo_labels": 0.0}},
    "ours without the projection": {"contrast": {"projection": 0}},
    "ours with an EM start": {"mixture": {"start": "em"}},
}
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def main() -> None:
    """Train every seed in every mode, and print a table and the figures as JSON."""
    given = _options()
    data, check = galaxies(400 if given.quick else COUNT)
    held = HELD_OUT * len(data.labels) // COUNT
    keep = Path(given.keep or tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    variants: dict[str, Mapping[str, Any]] = {"ours": {}, "paper": {}}
    if given.terms:
        variants |= WITHOUT
    runs: dict[str, list[Scores]] = {name: [] for name in variants}
    for seed in given.seeds:
        for name, changed in variants.items():
            if name in WITHOUT and seed != given.seeds[0]:
                continue  # what a term brings is shown on one seed
            if given.quick:
                changed = {**changed, "schedule": {**changed.get("schedule", {}), **SHORT}}
            mode = "paper" if name == "paper" else "ours"
            recipe = recipe_of("galaxies-64", mode=mode, seed=seed, **changed)
            label, settings = (
                f"{name.replace(' ', '-')}-{seed}",
                (set_apart(recipe), len(data.labels)),
            )
            work = partial(by_recipe, data, check, held, recipe, device=given.device)
            runs[name].append(kept(keep, label, settings, work, device=given.device))
            print(row(f"{name}, seed {seed}", runs[name][-1]), flush=True)
    others = {"principal components": principal_components(data, held)}
    if not given.quick:
        work = partial(published, held)
        others["published weights"] = kept(keep, "published", (COUNT, held), work)
    for name, scores in others.items():
        print(row(name, scores), flush=True)
    figures: dict[str, Any] = {}
    for name, found in {**runs, **{name: [scores] for name, scores in others.items()}}.items():
        prefix = "" if name == "ours" else name.replace(" ", "_") + "_"
        for key in found[0]:
            values = [run[key] for run in found]
            figures[prefix + key] = statistics.median(values)
            if len(values) > 1:
                figures[f"{prefix}{key}_spread"] = max(values) - min(values)
    last_line(seeds=given.seeds, quick=given.quick, machine=machine(given.device), **figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most 60 s, rough figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--terms", action="store_true", help="train without each term, too")
    parser.add_argument("--keep", metavar="FOLDER", help="where finished runs are remembered")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="to train on")
    given = parser.parse_args()
    if given.quick:
        given.seeds = given.seeds[:1]
    return given


@dataclass(frozen=True)
class Data:
    """pixels uint8 (N, 1, 64, 64), masks (N, 512) packed, labels (N,)."""

    pixels: Images
    masks: Images
    labels: Labels


def _table() -> tuple[list[bytes], Labels]:
    """JPEG bytes and labels of all galaxies, by ascending md5(object_id)."""
    folder = real_data()
    if folder is None:
        raise SystemExit("wanted galaxy_zoo_5class.parquet in AVADER_REAL_DATA, got none")
    table = pq.read_table(folder / "galaxy_zoo_5class.parquet")
    names = table["object_id"].to_pylist()
    digests = [hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() for name in names]
    order = np.argsort(digests)
    images, labels = table["image"], np.asarray(table["label"])
    return [images[int(row)].as_py() for row in order], labels[order].astype(np.int64)


def galaxies(count: int) -> tuple[Data, Data]:
    """So many galaxies as `pack` prepares them, and those after the 20,000 (as large a share)."""
    files, labels = _table()
    rows = np.r_[:count, COUNT : COUNT + (len(files) - COUNT) * count // COUNT]
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
        cutouts = list(pool.map(_prepared, [files[row] for row in rows], chunksize=100))
    masks = [np.packbits(cutout.source.ravel()) for cutout in cutouts if cutout.source is not None]
    every = np.stack([cutout.pixels for cutout in cutouts]), np.stack(masks), labels[rows]
    return Data(*(part[:count] for part in every)), Data(*(part[count:] for part in every))


def _prepared(data: bytes) -> Cutout:
    return prepare(decode_image(data), PREPROCESSING)


def by_recipe(data: Data, check: Data, held: int, recipe: Recipe, *, device: str) -> Scores:
    """The recipe, trained on all but the held-out galaxies, and its scores."""
    images = MemoryImages(data.pixels, data.masks, held_out=np.arange(held))
    state, seconds = trained(recipe, images, partial(print, flush=True), device=device)
    model = state.model.cpu()
    fitted = Data(*(part[held:] for part in (data.pixels, data.masks, data.labels)))
    held_out = Data(*(part[:held] for part in (data.pixels, data.masks, data.labels)))
    checked = scored(model, fitted, check)
    return {
        **scored(model, fitted, held_out),
        "seconds": seconds,
        **{f"check_{key}": value for key, value in checked.items()},
    }


def scored(model: VaDE, fitted: Data, unseen: Data) -> Scores:
    """All scores on unseen galaxies; probe and principal components are fitted on others."""
    engine = Engine(model, tile=64)
    means, _ = engine.encode(np.concatenate([unseen.pixels, fitted.pixels]))
    count = len(unseen.labels)
    z, _ = sample(mixture_arrays(model.mixture()), count=count, seed=0)
    pixels, others = (part.pixels.astype(np.float32) / 255 for part in (unseen, fitted))
    return {
        **probe(means, np.concatenate([unseen.labels, fitted.labels]), count),
        "nmi": nmi(engine.posterior(means[:count]).argmax(1), unseen.labels),
        "mse": mse(pixels, engine.decode(means[:count])),
        "frechet": frechet(others, pixels, engine.decode(z)),
    }


def principal_components(data: Data, held: int) -> Scores:
    """The same scores of 20 principal components and a mixture of 12 on them, whitened."""
    flat = data.pixels.reshape(len(data.pixels), -1).astype(np.float32) / 255
    fit = PCA(20, whiten=True, random_state=0).fit(flat[held:])
    z = fit.transform(flat)
    mixture = GaussianMixture(12, covariance_type="diag", random_state=0).fit(z[held:])
    drawn = fit.inverse_transform(mixture.sample(held)[0])
    return {
        **probe(z, data.labels, held),
        "nmi": nmi(mixture.predict(z[:held]), data.labels[:held]),
        "mse": mse(flat[:held], fit.inverse_transform(z[:held])),
        "frechet": frechet(flat[held:], flat[:held], np.clip(drawn, 0, 1)),
    }


def published(held: int) -> Scores:
    """The paper's trained model on the same galaxies, in its own framing of 128 px."""
    files, labels = _table()
    files, labels = files[:COUNT], labels[:COUNT]
    folder = real_data()
    assert folder is not None
    found = read_published((folder / "astrovader_published" / "saved_weights.h5").read_bytes())
    model = model_from_arrays(
        found.state,
        network=found.network,
        components=found.components,
        variance_floor=VARIANCE_FLOOR,
    )
    framing = PUBLISHED_PREPROCESSING.model_copy(update={"crop": 96})
    engine = Engine(model)
    means, held_pixels = [], []
    for start in range(0, len(files), 1000):
        pixels = np.stack(
            [prepare(decode_image(data), framing).pixels for data in files[start : start + 1000]]
        )
        means.append(engine.encode(pixels)[0])
        if start < held:
            held_pixels.append(pixels.astype(np.float32) / 255)
    z, truth = np.concatenate(means), np.concatenate(held_pixels)[:held]
    return {
        **probe(z, labels, held),
        "nmi": nmi(engine.posterior(z[:held]).argmax(1), labels[:held]),
        "mse": mse(truth, engine.decode(z[:held])),
    }


def probe(z: NDArray[np.floating], labels: Labels, held: int) -> Scores:
    """A logistic regression on standardised z (N, D), scored on the first `held` rows."""
    scale = StandardScaler().fit(z[held:])
    fit = LogisticRegression(max_iter=2000).fit(scale.transform(z[held:]), labels[held:])
    said = fit.predict(scale.transform(z[:held]))
    return {
        "probe": float((said == labels[:held]).mean()),
        "balanced": float(balanced_accuracy_score(labels[:held], said)),
    }


def nmi(clusters: Labels, labels: Labels) -> float:
    """Normalised mutual information of two labellings."""
    return float(normalized_mutual_info_score(labels, clusters))


def mse(truth: NDArray[np.float32], rebuilt: NDArray[np.float32]) -> float:
    """Mean squared error a pixel, images in [0, 1]."""
    return float(np.square(truth.reshape(-1) - rebuilt.reshape(-1)).mean())


def frechet(
    fitted: NDArray[np.float32], truth: NDArray[np.float32], drawn: NDArray[np.float32]
) -> float:
    """Frechet distance of drawn from true images over the truth's total variance.

    In the first 20 principal components of `fitted`.
    """
    fit = PCA(20, random_state=0).fit(fitted.reshape(len(fitted), -1))
    one, two = (
        fit.transform(part.reshape(len(part), -1)) for part in (truth, np.clip(drawn, 0, 1))
    )
    first, second = np.cov(one.T), np.cov(two.T)
    between = np.square(one.mean(0) - two.mean(0)).sum()
    spread = np.trace(first + second - 2 * sqrtm(first @ second).real)
    return float((between + spread) / np.trace(first))


def row(name: str, scores: Scores) -> str:
    """A line of the table."""
    return f"{name:32} " + ", ".join(f"{key} {value:.4g}" for key, value in scores.items())


if __name__ == "__main__":
    main()
