"""Checks at the door of a model: is this array one that it can compute?"""

import importlib.util
import os
import shutil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from avader.errors import InputError


def check_device(name: str) -> torch.device:
    """The torch device of this name; InputError where this machine has none such."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device: wanted one of this machine's, such as cpu or cuda, got {name!r} ({error})"
        ) from error
    if device.type == "cuda":
        check_compiler(name)
    return device


def check_compiler(device: str) -> None:
    """Raise InputError where this machine lacks what torch compiles for a GPU with."""
    found = {
        "triton": importlib.util.find_spec("triton"),
        "C compiler": os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"),
    }
    absent = [name for name, what in found.items() if not what]
    if absent:
        raise InputError(
            f"device {device}: wanted triton and a C compiler, got no {' and no '.join(absent)}; "
            "install torch's CUDA build and gcc, or choose cpu"
        )


def check_precision(name: str) -> torch.dtype:
    """The torch type of this precision; InputError for another name."""
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in types:
        raise InputError(f"precision: wanted {' or '.join(types)}, got {name!r}")
    return types[name]


def check_images(images: NDArray[Any], *, shape: tuple[int, int, int]) -> None:
    """Raise InputError unless images are (B, C, H, W), uint8 or floats in [0, 1]."""
    _check_array(images, "images")
    if images.ndim != 4 or images.shape[1:] != shape:
        raise InputError(
            f"images: wanted shape (B, {', '.join(map(str, shape))}) for this model, "
            f"got {images.shape}; prepare them with the model's preprocessing"
        )
    if images.dtype not in (np.uint8, np.float16, np.float32):
        raise InputError(
            f"images: wanted uint8, or float32 or float16 in [0, 1], got {images.dtype}; "
            "convert them"
        )
    if images.dtype != np.uint8 and images.size:
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # also where they are NaN
            raise InputError(
                f"images: wanted {images.dtype} in [0, 1], got {low:g} to {high:g}; prepare them "
                "with the model's preprocessing"
            )


def check_latents(z: NDArray[Any], *, latent: int, name: str = "z") -> None:
    """Raise InputError, by this name, unless z is (B, D), float32 or float64."""
    _check_array(z, name)
    if z.ndim != 2 or z.shape[1] != latent:
        raise InputError(f"{name}: wanted shape (B, {latent}) for this model, got {z.shape}")
    if z.dtype not in (np.float32, np.float64):
        raise InputError(f"{name}: wanted float32 or float64, got {z.dtype}; convert it")


def _check_array(value: NDArray[Any], name: str) -> None:
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name}: wanted a numpy array, got {type(value).__name__}")
