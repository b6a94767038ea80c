"""Which arithmetic a training computes in, where its recipe leaves it to the machine."""

from typing import Literal

import torch

from avader.recipe import Recipe


def has_native_bfloat16(device: str) -> bool:
    """Whether the device, by torch's name, multiplies in bfloat16 itself.

    Elsewhere it is emulated, on CPUs up to ten times slower than float32. ("bf16" is Arm's.)
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def precision_on(recipe: Recipe, device: str) -> Literal["float32", "bfloat16"]:
    """The recipe's precision on a device; "auto" is bfloat16 where that is native."""
    if recipe.precision == "auto":
        return "bfloat16" if has_native_bfloat16(device) else "float32"
    return recipe.precision
