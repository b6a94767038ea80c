"""A trained model made fast, with the same numbers for an image whatever lies beside it.

A network's kernels change with the batch size, and with them the last bits. So the engine
computes tiles of one fixed size, the last one padded. Densities and posteriors are computed in
float64 on the CPU from the float32 mean, also in tiles. TF32 is off, cuDNN is deterministic and
does not tune itself: both would make numbers depend on the run. A GPU takes tiles by lanes.py.

Legend: B images, C bands, H W pixels, D latent dimensions, K components.
"""

import copy
import math
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avader.inference.checks import check_device, check_precision
from avader.inference.folding import fast_decoder, fast_encoder
from avader.inference.lanes import Compute, Lanes, check_tile
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
Tiles = Iterator[tuple[int, NDArray[Any]]]
"""Where each tile of rows begins, and what came of them."""

# Points whose densities are computed at once; their order and number change no bit.
DENSITY_TILE = 256
# Lanes are used by one thread at a time, and torch captures one graph at a time in a process.
ON_GPU = threading.Lock()


class Engine:
    """Runs a VaDE on numpy arrays; the model given is left as it is."""

    def __init__(
        self,
        model: VaDE,
        *,
        tile: int = 16,
        device: str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        """tile: images computed at once. precision: of all layers but those next to the latents.

        Part of a catalogue's plan, since the last bits depend on them: tile, device, precision.
        """
        self.tile = tile
        self.device = check_device(device)
        self.dtype = check_precision(precision)
        check_tile(tile, model.network, self.device)
        own = copy.deepcopy(model).eval()
        self.network, self.components = own.network, own.components
        # Those are float32 always: they cost nothing, and every pixel would carry the rounding of a
        # latent to bfloat16.
        encoder, self.heads = fast_encoder(own.encoder)
        self.dense, decoder = fast_decoder(own.decoder)
        self.heads.to(self.device, torch.float32)
        self.dense.to(self.device, torch.float32)
        self.encoder, self.decoder = self._prepared(encoder), self._prepared(decoder)
        self.mixture = GaussianMixture(*(part.detach().cpu() for part in model.mixture()))
        # A tensor, because torch divides by a plain number on a GPU as x * (1 / 255).
        self._white = torch.tensor(255.0, device=self.device)
        self._lanes: dict[tuple[str, Hashable, torch.dtype, torch.Size], Lanes] = {}

    def encode(self, images: Images) -> tuple[Floats, Floats]:
        """Images (B, C, H, W), uint8 or floats in [0, 1] -> mean and logvar (B, D) float32.

        uint8 is divided by 255 in float32; float16 is taken as it is.
        """
        latent = self.network.latent
        both = np.empty((len(images), 2 * latent), np.float32)
        self._fill(both, images, self._encode_tile)
        return both[:, :latent].copy(), both[:, latent:].copy()

    def decode(self, z: Latents) -> Floats:
        """Latents (B, D) -> images (B, C, H, W) float32, not clipped at 1."""
        images = np.empty((len(z), *self.image_shape), np.float32)
        self._fill(images, z, self._decode_tile)
        return images

    def decode_pixels(self, z: Latents) -> NDArray[np.uint8]:
        """Latents (B, D) -> images (B, C, H, W) as they are stored: round(255 x), clipped first.

        On a GPU what `decode` gives, rounded, may differ by 1: each is compiled by itself.
        """
        pixels = np.empty((len(z), *self.image_shape), np.uint8)
        self._fill(pixels, z, self._pixels_tile)
        return pixels

    def decode_measured(
        self, z: Latents, measure: Callable[[Tensor], Tensor]
    ) -> tuple[NDArray[np.uint8], Floats]:
        """Latents (B, D) -> images as decode_pixels gives them, and what is measured of each.

        measure: of images (T, C, H, W) float32 on the device, before they are rounded and clipped,
        some numbers of each, (T, M) float32; the same function each time, as a GPU compiles each.
        """
        # One array of bytes, so that a GPU sends both back at once.
        width = 4 * measure(torch.zeros(1, *self.image_shape)).shape[1]

        def measured_tile(z: Tensor) -> Tensor:
            images = self._decode_tile(z)
            numbers = measure(images).contiguous().view(torch.uint8)
            return torch.cat([numbers, self._rounded(images).flatten(1)], dim=1)

        both = np.empty((len(z), width + math.prod(self.image_shape)), np.uint8)
        self._fill(both, z, measured_tile, measure)
        pixels = both[:, width:].reshape(-1, *self.image_shape)
        return pixels, np.ascontiguousarray(both[:, :width]).view(np.float32)

    def posterior(self, z: Latents) -> Doubles:
        """p(c | z), exact, of latents (B, D): (B, K) float64; NaN where z is not finite."""
        g = np.empty((len(z), self.components))
        _fill(g, _by_calls(z, self._posterior_tile, DENSITY_TILE))
        return g

    def integrated_posterior(self, mean: Latents, logvar: Latents) -> Doubles:
        """p(c) of the mixture integrated over N(mean, diag exp(logvar)), both (B, D): (B, K).

        float64; NaN where mean or logvar is not finite.
        """
        g = np.empty((len(mean), self.components))
        both = np.concatenate([mean, logvar], axis=1)
        _fill(g, _by_calls(both, self._integrated_tile, DENSITY_TILE))
        return g

    def log_likelihood(self, z: Latents) -> Doubles:
        """log p(z) under the mixture of latents (B, D): (B,) float64, nats."""
        likelihood = np.empty(len(z))
        _fill(likelihood, _by_calls(z, self._likelihood_tile, DENSITY_TILE))
        return likelihood

    def _encode_tile(self, images: Tensor) -> Tensor:
        x = images.to(self.device).float()
        if images.dtype == torch.uint8:
            x = x / self._white
        x = x.to(self.dtype, memory_format=torch.channels_last)
        both: Tensor = self.heads(self.encoder(x).float())  # (T, 2 D): mean, then logvar
        return both

    def _decode_tile(self, z: Tensor) -> Tensor:
        features = self.dense(z.to(self.device, torch.float32))
        images: Tensor = self.decoder(features.to(self.dtype))
        return images.float()

    def _pixels_tile(self, z: Tensor) -> Tensor:
        return self._rounded(self._decode_tile(z))

    def _rounded(self, images: Tensor) -> Tensor:
        # Half to even, as numpy.rint.
        return (images.clamp(0, 1) * self._white).round().to(torch.uint8)

    def _posterior_tile(self, z: Tensor) -> Tensor:
        return responsibilities(z.double(), self.mixture)

    def _integrated_tile(self, both: Tensor) -> Tensor:
        mean, logvar = both.double().chunk(2, dim=1)
        found = integrated_responsibilities(mean, logvar, self.mixture)
        # A logvar of minus infinity would give finite ones.
        return found.where(both.isfinite().all(1, keepdim=True), math.nan)

    def _likelihood_tile(self, z: Tensor) -> Tensor:
        return log_likelihood(z.double(), self.mixture)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.network.bands, self.network.size, self.network.size

    def _prepared(self, part: nn.Module) -> nn.Module:
        """A part of the network in this engine's precision, channels last, on its device."""
        for step in part.modules():
            if isinstance(step, nn.LeakyReLU):
                step.inplace = True  # no other step takes what it takes: half of the memory
        placed: nn.Module = part.to(self.device, self.dtype)
        return placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _fill(
        self, results: NDArray[Any], rows: NDArray[Any], compute: Compute, by: Hashable = None
    ) -> None:
        """Fill results with what the network makes of rows; by: what compute depends on besides."""
        if self.device.type == "cuda":
            with ON_GPU:
                _fill(results, self._by_lanes(rows, compute, self.tile, by))
        else:
            _fill(results, _by_calls(rows, compute, self.tile))

    def _by_lanes(self, rows: NDArray[Any], compute: Compute, tile: int, by: Hashable) -> Tiles:
        example = torch.from_numpy(np.zeros((tile, *rows.shape[1:]), rows.dtype))
        key = (compute.__name__, by, example.dtype, example.shape)
        if key not in self._lanes:
            self._lanes[key] = Lanes(compute, example, self.device)
        yield from self._lanes[key].run(rows)


def _fill(results: NDArray[Any], tiles: Tiles) -> None:
    """Fill results from tiles, which are computed meanwhile."""
    with torch.inference_mode(), exact_arithmetic():
        for start, done in tiles:
            results[start : start + len(done)] = done


def _by_calls(rows: NDArray[Any], compute: Compute, tile: int) -> Tiles:
    """Tile after tile, the last one padded with zeros."""
    for start in range(0, len(rows), tile):
        part = rows[start : start + tile]
        padded = np.zeros((tile, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(part)] = part
        yield start, compute(torch.from_numpy(padded))[: len(part)].cpu().numpy()


@contextmanager
def one_thread() -> Iterator[None]:
    """Arithmetic by one thread, as in Ray's workers of one CPU, for as long as the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
