"""The paper's trained weights: from Keras's HDF5 layout to VaDE's.

Source: saved_weights.h5 of Spindler, Geach & Smith (2021), MNRAS 502, 985, Keras 2.3.1 on
TensorFlow 1.15. What changes on the way:

- kernels from (height, width, in, out) to (out, in, height, width), dense ones transposed;
- the flatten order from height, width, filter to filter, height, width;
- the two heads into one layer, mean first;
- theta, relative weights that sum to 28.13, are normalised;
- u and lambda from (D, K) to (K, D); lambda holds variances.

The file does not say the slope (0.1), the output (ReLU) or the up-sampling (TensorFlow 1's):
they are the paper's. Sizes are read from the file.
"""

import io
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avader.errors import InputError
from avader.model.files import check_tensors
from avader.model.networks import inner_shape
from avader.model.vade import mixture_parameters
from avader.recipe import Network

# The published code clamps variances at this; the published variances begin at 0.33.
VARIANCE_FLOOR = 1e-7

CONVOLUTIONS = tuple(f"Conv{number}" for number in range(1, 13))
ENCODER, DECODER = CONVOLUTIONS[:6], CONVOLUTIONS[6:]
HEADS = ("latentmean", "latentlog_var")
MIXTURE = ("theta_p", "u_p", "lambda_p")
NAMES = {
    (layer, part): f"{layer}/{layer}/{part}:0"
    for layer in (*CONVOLUTIONS, *HEADS, "FC3", "Output")
    for part in ("kernel", "bias")
} | {("mixture", part): f"latentGMM_Layer/{part}:0" for part in MIXTURE}

Array = NDArray[Any]
Arrays = dict[tuple[str, str], Array]


class Published(NamedTuple):
    """VaDE's state by name, the network and components found, and the sum that theta had."""

    state: dict[str, Array]
    network: Network
    components: int
    theta_sum: float


def read_published(data: bytes) -> Published:
    """Read the bytes of a weights file in the published layout, of any sizes.

    Raises InputError where they are no HDF5 file, where arrays are missing (all are named) or
    where their shapes do not fit together.
    """
    arrays = _read_arrays(data)
    try:
        theta = arrays["mixture", "theta_p"].astype(np.float64)
        network = _network(arrays)
        state = _encoder(arrays, network) | _decoder(arrays, network) | _mixture(arrays)
    except (IndexError, ValueError) as error:
        shapes = {NAMES[key]: value.shape for key, value in arrays.items()}
        raise InputError(
            f"wanted arrays of the published layout, got {shapes}, which do not fit ({error}); "
            "give saved_weights.h5 as it was published"
        ) from error
    check_tensors(state, network=network, components=theta.size)
    return Published(state, network, theta.size, float(theta.sum()))


def _read_arrays(data: bytes) -> Arrays:
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "wanted h5py to read the published weights, got none; install avader[published]"
        ) from error
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            arrays = {key: np.asarray(file[name]) for key, name in NAMES.items() if name in file}
    except OSError as error:
        raise InputError(
            f"wanted the published weights in HDF5, got {len(data)} bytes that h5py cannot read "
            f"({error}); give saved_weights.h5 as it was published"
        ) from error
    missing = [name for key, name in NAMES.items() if key not in arrays]
    if missing:
        raise InputError(
            f"wanted the published weights, got a file without {', '.join(missing)}; "
            "give saved_weights.h5 as it was published"
        )
    return arrays


def _network(arrays: Arrays) -> Network:
    """The sizes that the arrays' shapes say."""
    encoder, decoder = (
        [arrays[layer, "kernel"] for layer in layers[::2]] for layers in (ENCODER, DECODER)
    )
    latent, features = arrays["FC3", "kernel"].shape
    filters = tuple(kernel.shape[3] for kernel in encoder)
    return Network(
        size=math.isqrt(features // filters[-1]) * 2 ** len(filters),
        bands=encoder[0].shape[2],
        latent=latent,
        filters=filters,
        kernels=tuple(kernel.shape[0] for kernel in encoder),
        decoder_kernels=tuple(kernel.shape[0] for kernel in decoder),
        upsampling="legacy",
    )


def _encoder(arrays: Arrays, network: Network) -> dict[str, Array]:
    kernels = np.concatenate([arrays[head, "kernel"].T for head in HEADS])  # (2D, h w F)
    return _blocks(arrays, ENCODER, name="encoder") | {
        "encoder.heads.weight": _filters_first(kernels.T, network).T,
        "encoder.heads.bias": np.concatenate([arrays[head, "bias"] for head in HEADS]),
    }


def _decoder(arrays: Arrays, network: Network) -> dict[str, Array]:
    return _blocks(arrays, DECODER, name="decoder") | {
        "decoder.dense.weight": _filters_first(arrays["FC3", "kernel"].T, network),
        "decoder.dense.bias": _filters_first(arrays["FC3", "bias"], network),
        "decoder.output.weight": arrays["Output", "kernel"].transpose(3, 2, 0, 1),
        "decoder.output.bias": arrays["Output", "bias"],
    }


def _blocks(arrays: Arrays, layers: tuple[str, ...], *, name: str) -> dict[str, Array]:
    """Two convolutions a block, at places 0 and 2 of its sequence."""
    state = {}
    for number, layer in enumerate(layers):
        place = f"{name}.blocks.{number // 2}.{number % 2 * 2}"
        state[f"{place}.weight"] = arrays[layer, "kernel"].transpose(3, 2, 0, 1)
        state[f"{place}.bias"] = arrays[layer, "bias"]
    return state


def _filters_first(values: Array, network: Network) -> Array:
    """Reorder the first axis (h w F, ...) to (F h w, ...)."""
    filters, height, width = inner_shape(network)
    grid = values.reshape(height, width, filters, *values.shape[1:])
    return np.moveaxis(grid, 2, 0).reshape(values.shape)


def _mixture(arrays: Arrays) -> dict[str, Array]:
    theta, means, variances = (arrays["mixture", part].astype(np.float64) for part in MIXTURE)
    values = mixture_parameters(theta, means.T, variances.T, floor=VARIANCE_FLOOR)
    return {name: value.numpy() for name, value in values.items()}
