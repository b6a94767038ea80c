"""How firmly an object's component holds when its image is turned and flipped.

The 8 flips and quarter turns of a square (the dihedral group) move pixels and change none, so
what they change in an answer is the network's own. Legend: B images, C bands, S pixels a side,
K components.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]


def turned(images: Pixels) -> Iterator[Pixels]:
    """The 7 flips and quarter turns of images (B, C, S, S) that differ from the images."""
    for flipped in (images, images[..., ::-1]):
        for turns in range(4):
            if turns or flipped is not images:
                yield np.rot90(flipped, turns, axes=(2, 3))


def stability(
    images: Pixels,
    component: NDArray[np.integer[Any]],
    posterior: Callable[[Pixels], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Share of the 8 flips and quarter turns of each image that have its component: (B,).

    images: (B, C, S, S); component: (B,), of the images as they are, which count too, so that the
    least is 1/8. posterior: images -> probabilities (B, K), of which the most probable component
    is compared. A view with probabilities that are not finite has no component.
    """
    same = np.ones(len(images), np.int64)
    for view in turned(images):
        g = posterior(view)
        same += np.isfinite(g).all(axis=1) & (g.argmax(axis=1) == component)
    return same / 8
