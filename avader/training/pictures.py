"""What a model in training makes of some images, and what it draws by itself.

Nothing of the training is used up: latents are means or come from addressed random numbers.
Legend: n images, K components, D latent dimensions, m samples a component, C bands, H W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from avader.mixture.sample import MixtureArrays, mixture_arrays, sample
from avader.training.data import Images, Pixels, as_images
from avader.training.state import TrainingState

EXAMPLES = 12
COMPONENTS = 12
SAMPLES = 8

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pictures:
    """images and reconstructions (n, C, H, W); samples (K, m, C, H, W), in [0, 1] and above.

    components: number of each row of samples from 0, and weights, its share of the mixture; both
    empty before the first mixture, when the one row of samples is of the unit Gaussian.
    """

    images: Floats
    reconstructions: Floats
    samples: Floats
    components: list[int]
    weights: list[float]


def examples(images: Images) -> Pixels:
    """Up to 12 images (n, C, H, W), spread evenly over those held out, or over all if none are."""
    rows = images.held_out_rows if len(images.held_out_rows) else images.training_rows
    count = min(EXAMPLES, len(rows))
    chosen = rows[(2 * np.arange(count) + 1) * len(rows) // (2 * max(count, 1))]
    return next(images.some(chosen, EXAMPLES)).pixels


@torch.no_grad()
def pictures(state: TrainingState, pixels: Pixels) -> Pictures:
    """Reconstructions of these images from their latent means, and samples of the heaviest 12.

    The model is left in the mode it was in.
    """
    model, was_training = state.model, state.model.training
    model.eval()
    images = as_images(pixels, state.device)
    mean, _ = model.encode(images)
    mixture, components = _drawn_from(state)
    rows = [
        sample(mixture, count=SAMPLES, seed=0, start=SAMPLES * k, components=[k])[0]
        for k in components or [0]
    ]
    drawn = [model.decode(torch.from_numpy(z).to(state.device)) for z in rows]
    made = Pictures(
        images=images.cpu().numpy(),
        reconstructions=model.decode(mean).float().cpu().numpy(),
        samples=torch.stack(drawn).float().cpu().numpy(),
        components=components,
        weights=[float(mixture.weights[k]) for k in components],
    )
    model.train(was_training)
    return made


def _drawn_from(state: TrainingState) -> tuple[MixtureArrays, list[int]]:
    """The mixture and its heaviest components in order; the unit Gaussian before there is one."""
    if not state.mixture_ready:
        unit = np.ones((1, state.model.network.latent))
        return MixtureArrays(np.ones(1), 0 * unit, unit), []
    mixture = mixture_arrays(state.model.mixture())
    heaviest = np.argsort(-mixture.weights, kind="stable")[:COMPONENTS]
    return mixture, sorted(heaviest.tolist())
