"""A training small enough for tests: two kinds of images of 16 px, a network of 1,000 weights."""

import numpy as np

from avader.recipe import Mixture, Network, Optimiser, Recipe, Schedule

RECIPE = Recipe(
    network=Network(size=16, latent=3, filters=(4, 4), kernels=(3, 3), decoder_kernels=(3, 3)),
    mixture=Mixture(components=2, initial_starts=2),
    schedule=Schedule(
        gamma=1e-3, gamma_epochs=3, periods=2, annealing_epochs=2, static_epochs=1, kl_weight=0.1
    ),
    optimiser=Optimiser(batch=16, learning_rate=5e-3, final_learning_rate=1e-3, l2=1e-3),
    seed=4,
)
EPOCHS = 9


def images(count: int = 60) -> np.ndarray:
    """uint8 (N, 1, 16, 16): bright squares and dim bars, with noise."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 30, (count, 1, 16, 16))
    pixels[::2, :, 4:12, 4:12] += 180
    pixels[1::2, :, 7:9, :] += 90
    return pixels.astype(np.uint8)


def changed(**sections: dict) -> Recipe:
    """RECIPE with some settings of its sections changed."""
    values = RECIPE.model_dump()
    for name, value in sections.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    return Recipe(**values)
