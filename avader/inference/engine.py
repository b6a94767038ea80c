"""A trained model made fast, with the same numbers for an image whatever lies beside it.

A network's kernels change with the batch size, and with them the last bits. So the engine
computes tiles of one fixed size, the last one padded. Densities and posteriors are computed in
float64 on the CPU from the float32 mean, also in tiles. TF32 is off, cuDNN is deterministic and
does not tune itself: both would make numbers depend on the run.

Legend: B images, C bands, H W pixels, D latent dimensions, K components.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avader.inference.checks import check_device, check_precision
from avader.mixture.gaussian import (
    GaussianMixture,
    integrated_responsibilities,
    log_likelihood,
    responsibilities,
)
from avader.model.vade import VaDE

Precision = Literal["float32", "bfloat16"]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Images = NDArray[np.uint8] | NDArray[np.float16] | Floats
Latents = Floats | Doubles

# Points whose densities are computed at once; their order and number change no bit.
DENSITY_TILE = 256


class Engine:
    """Runs a VaDE on numpy arrays; the model given is copied and left as it is."""

    def __init__(
        self,
        model: VaDE,
        *,
        tile: int = 16,
        device: str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        """tile: images computed at once. precision: of weights and activations.

        Part of a catalogue's plan, since the last bits depend on them: tile, device, precision.
        """
        self.tile = tile
        self.device = check_device(device)
        self.dtype = check_precision(precision)
        self.model = _prepared(model, device=self.device, dtype=self.dtype)
        self.mixture = GaussianMixture(*(part.detach().cpu() for part in model.mixture()))
        # A tensor, because torch divides by a plain number on a GPU as x * (1 / 255).
        self._white = torch.tensor(255.0, device=self.device)

    def encode(self, images: Images) -> tuple[Floats, Floats]:
        """Images (B, C, H, W), uint8 or floats in [0, 1] -> mean and logvar (B, D) float32.

        uint8 is divided by 255 in float32; float16 is taken as it is.
        """
        latent = self.model.network.latent
        both = np.empty((len(images), 2 * latent), np.float32)
        self._fill(both, images, self._encode_tile, tile=self.tile)
        return both[:, :latent].copy(), both[:, latent:].copy()

    def decode(self, z: Latents) -> Floats:
        """Latents (B, D) -> images (B, C, H, W) float32, not clipped at 1."""
        network = self.model.network
        images = np.empty((len(z), network.bands, network.size, network.size), np.float32)
        self._fill(images, z, self._decode_tile, tile=self.tile)
        return images

    def posterior(self, z: Latents) -> Doubles:
        """p(c | z), exact, of latents (B, D): (B, K) float64; NaN where z is not finite."""
        g = np.empty((len(z), self.model.components))
        self._fill(g, z, self._posterior_tile, tile=DENSITY_TILE)
        return g

    def integrated_posterior(self, mean: Latents, logvar: Latents) -> Doubles:
        """p(c) of the mixture integrated over N(mean, diag exp(logvar)), both (B, D): (B, K).

        float64; NaN where mean or logvar is not finite.
        """
        g = np.empty((len(mean), self.model.components))
        both = np.concatenate([mean, logvar], axis=1)
        self._fill(g, both, self._integrated_tile, tile=DENSITY_TILE)
        return g

    def log_likelihood(self, z: Latents) -> Doubles:
        """log p(z) under the mixture of latents (B, D): (B,) float64, nats."""
        likelihood = np.empty(len(z))
        self._fill(likelihood, z, self._likelihood_tile, tile=DENSITY_TILE)
        return likelihood

    def _encode_tile(self, images: Tensor) -> Tensor:
        x = images.to(self.device).float()
        if images.dtype == torch.uint8:
            x = x / self._white
        x = x.to(self.dtype, memory_format=torch.channels_last)
        return torch.cat(self.model.encode(x), dim=1).float()

    def _decode_tile(self, z: Tensor) -> Tensor:
        return self.model.decode(z.to(self.device, self.dtype)).float()

    def _posterior_tile(self, z: Tensor) -> Tensor:
        return responsibilities(z.double(), self.mixture)

    def _integrated_tile(self, both: Tensor) -> Tensor:
        mean, logvar = both.double().chunk(2, dim=1)
        return integrated_responsibilities(mean, logvar, self.mixture)

    def _likelihood_tile(self, z: Tensor) -> Tensor:
        return log_likelihood(z.double(), self.mixture)

    def _fill(
        self,
        results: NDArray[Any],
        rows: NDArray[Any],
        compute: Callable[[Tensor], Tensor],
        *,
        tile: int,
    ) -> None:
        """Fill results from rows by fixed tiles, the last one padded with zeros."""
        with torch.inference_mode(), exact_arithmetic():
            for start in range(0, len(rows), tile):
                part = rows[start : start + tile]
                padded = np.zeros((tile, *rows.shape[1:]), dtype=rows.dtype)
                padded[: len(part)] = part
                done = compute(torch.from_numpy(padded))[: len(part)]
                results[start : start + tile] = done.cpu().numpy()


def _prepared(model: VaDE, *, device: torch.device, dtype: torch.dtype) -> VaDE:
    """A copy ready to infer: its network in this precision, channels last."""
    prepared = copy.deepcopy(model).eval().to(device)
    for network in (prepared.encoder, prepared.decoder):
        network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prepared


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 products and deterministic convolutions, for as long as the block lasts."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
