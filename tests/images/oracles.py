"""What the tests of cutouts share: noise, and plain numpy in place of Pillow."""

import numpy as np

KERNELS = ["nearest", "box", "bilinear", "bicubic", "lanczos", "bilinear-unfiltered"]


def noise(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5, 2, shape).astype(np.float32)


def sampled(band: np.ndarray, size: int) -> np.ndarray:
    """Bilinear values at half-pixel centres, edges repeated: by loops, float64."""
    height, width = band.shape
    out = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            y = min(max((row + 0.5) * height / size - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / size - 0.5, 0), width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            dy, dx = y - y0, x - x0
            top = (1 - dx) * band[y0, x0] + dx * band[y0, x1]
            bottom = (1 - dx) * band[y1, x0] + dx * band[y1, x1]
            out[row, column] = (1 - dy) * top + dy * bottom
    return out
