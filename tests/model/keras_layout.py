"""An oracle for the published layout: a tiny random network in HDF5, and its forward pass.

Plain numpy loops, channels last as Keras has them; nothing of avader is used.
"""

import io

import h5py
import numpy as np

SIZE, BANDS, FILTERS, LATENT, COMPONENTS = 16, 2, (3, 4, 5), 3, 4
KERNELS, DECODER_KERNELS = (3, 5, 3), (5, 3, 5)
INNER = SIZE // 8
SLOPE = 0.1

Weights = dict[str, np.ndarray]


def layer_shapes() -> dict[str, tuple[int, ...]]:
    """Kernel shape of every layer, as Keras orders axes."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = BANDS
    for block, (filters, kernel) in enumerate(zip(FILTERS, KERNELS, strict=True)):
        shapes[f"Conv{2 * block + 1}"] = (kernel, kernel, channels, filters)
        shapes[f"Conv{2 * block + 2}"] = (kernel, kernel, filters, filters)
        channels = filters
    features = INNER * INNER * channels
    shapes |= {"latentmean": (features, LATENT), "latentlog_var": (features, LATENT)}
    shapes["FC3"] = (LATENT, features)
    for block, (filters, kernel) in enumerate(zip(FILTERS[::-1], DECODER_KERNELS, strict=True)):
        shapes[f"Conv{2 * block + 7}"] = (kernel, kernel, channels, filters)
        shapes[f"Conv{2 * block + 8}"] = (kernel, kernel, filters, filters)
        channels = filters
    return shapes | {"Output": (3, 3, channels, BANDS)}


def random_weights(seed: int = 0) -> Weights:
    """Arrays by their name in the file."""
    rng = np.random.default_rng(seed)
    weights = {}
    for layer, shape in layer_shapes().items():
        scale = 1.5 / np.sqrt(np.prod(shape[:-1]))
        weights[f"{layer}/{layer}/kernel:0"] = rng.normal(0, scale, shape)
        weights[f"{layer}/{layer}/bias:0"] = rng.normal(0, 0.1, shape[-1])
    mixture = "latentGMM_Layer"
    weights[f"{mixture}/theta_p:0"] = rng.uniform(1.9, 2.6, COMPONENTS)
    weights[f"{mixture}/u_p:0"] = rng.normal(0, 2, (LATENT, COMPONENTS))
    weights[f"{mixture}/lambda_p:0"] = rng.uniform(0.3, 13, (LATENT, COMPONENTS))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def hdf5_bytes(weights: Weights) -> bytes:
    """The weights as a file in the published layout."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in weights.items():
            file[name] = value
        file.create_group("leaky_re_lu_1")  # layers without weights have empty groups
    return buffer.getvalue()


def convolve(x: np.ndarray, weights: Weights, layer: str) -> np.ndarray:
    """(H, W, C) -> (H, W, F), zeros beyond the edges, in float64."""
    kernel, bias = weights[f"{layer}/{layer}/kernel:0"], weights[f"{layer}/{layer}/bias:0"]
    size, half = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(x, ((half, half), (half, half), (0, 0)))
    out = np.zeros((*x.shape[:2], kernel.shape[3]))
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            window = padded[i : i + size, j : j + size]
            out[i, j] = np.tensordot(window, kernel.astype(np.float64), 3) + bias
    return out


def dense(x: np.ndarray, weights: Weights, layer: str) -> np.ndarray:
    kernel, bias = weights[f"{layer}/{layer}/kernel:0"], weights[f"{layer}/{layer}/bias:0"]
    return x @ kernel.astype(np.float64) + bias


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, SLOPE * x)


def pool(x: np.ndarray) -> np.ndarray:
    out = np.zeros((x.shape[0] // 2, x.shape[1] // 2, x.shape[2]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(0, 1))
    return out


def upsample(x: np.ndarray) -> np.ndarray:
    """TensorFlow 1's bilinear: out[2i] = x[i], out[2i+1] halfway to the next, the last clamped."""
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1], x.shape[2]))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            top, left = i // 2, j // 2
            bottom = min(top + i % 2, x.shape[0] - 1)
            right = min(left + j % 2, x.shape[1] - 1)
            out[i, j] = (x[top, left] + x[top, right] + x[bottom, left] + x[bottom, right]) / 4
    return out


def encode(x: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, C) -> mean (D,) and log variance (D,)."""
    for block in range(3):
        for number in (2 * block + 1, 2 * block + 2):
            x = leaky(convolve(x, weights, f"Conv{number}"))
        x = pool(x)
    flat = x.reshape(-1)  # height, width, filter
    return dense(flat, weights, "latentmean"), dense(flat, weights, "latentlog_var")


def decode(z: np.ndarray, weights: Weights) -> np.ndarray:
    """A latent (D,) -> an image (H, W, C)."""
    x = leaky(dense(z, weights, "FC3")).reshape(INNER, INNER, FILTERS[-1])
    for block in range(3):
        for number in (2 * block + 7, 2 * block + 8):
            x = leaky(convolve(x, weights, f"Conv{number}"))
        x = upsample(x)
    return np.maximum(convolve(x, weights, "Output"), 0)
