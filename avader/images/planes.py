"""What a file's reader gives: values as they stand in the file. Legend: C bands, H W pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Planes:
    """Values as the file gives them, physical but not yet float32.

    values: (C, H, W), any real type; bad: bool (H, W) or None for no mask; saturated: bool (H, W).
    """

    values: npt.NDArray[Any]
    bad: npt.NDArray[np.bool_] | None
    saturated: npt.NDArray[np.bool_]
