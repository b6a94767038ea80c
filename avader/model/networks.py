"""Encoder and decoder (paper, section 3.4); every size comes from the recipe's Network.

Legend: B images, C bands, H W pixels, D latent dimensions, F filters of the innermost block,
h w its pixels. Convolutions have stride 1 and keep the size; flatten order is F, h, w.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from avader.recipe import Network

GROUP = 8
"""Maps that are normalised together, where that divides their number."""


class LegacyUpsample(nn.Module):
    """Bilinear up-sampling by 2 as TensorFlow 1 did it.

    out[2i] = x[i], out[2i+1] = (x[i] + x[i+1]) / 2, the last sample repeated, along each axis.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, F, 2h, 2w).

        One more row and column, then corner-aligned sampling at steps of exactly 1/2.
        """
        height, width = x.shape[-2:]
        x = torch.cat((x, x[..., -1:, :]), dim=-2)
        x = torch.cat((x, x[..., -1:]), dim=-1)
        size = (2 * height + 1, 2 * width + 1)
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
        return x[..., :-1, :-1]


def convolution(channels: int, filters: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, or halves it with stride 2: zeros beyond the edges."""
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2, stride=stride)


class PixelShuffle(nn.PixelShuffle):
    """torch's by 2, also for no images at all, whose gradient torch gives a wrong shape."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4F, h, w) -> (B, F, 2h, 2w)."""
        count, maps, height, width = x.shape
        return super().forward(x) if count else x.reshape(0, maps // 4, 2 * height, 2 * width)


class Residual(nn.Module):
    """A step that keeps its input's shape and adds to it."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, F, h, w)."""
        return x + self.step(x)


def step(
    network: Network, convolved: list[nn.Module], *, filters: int, keeps: bool
) -> list[nn.Module]:
    """Convolution, normalisation and leaky ReLU; `keeps`: the input has the output's shape."""
    parts = [*convolved]
    if network.normalisation == "group":
        parts.append(nn.GroupNorm(filters // math.gcd(filters, GROUP), filters))
    parts.append(nn.LeakyReLU(network.slope))
    return [Residual(nn.Sequential(*parts))] if keeps and network.blocks == "residual" else parts


def down_block(network: Network, channels: int, filters: int, kernel: int) -> nn.Module:
    """An encoder's block: (B, channels, h, w) -> (B, filters, h / 2, w / 2)."""
    parts: list[nn.Module] = []
    for number in range(network.convolutions):
        stride = 2 if network.reduction == "stride" and number == 0 else 1
        taken = filters if number else channels
        keeps = taken == filters and stride == 1
        convolved: list[nn.Module] = [convolution(taken, filters, kernel, stride)]
        parts += step(network, convolved, filters=filters, keeps=keeps)
    if network.reduction == "max-pool":
        parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts)


def up_block(network: Network, channels: int, filters: int, kernel: int) -> nn.Module:
    """A decoder's block: (B, channels, h, w) -> (B, filters, 2h, 2w)."""
    shuffles = network.upsampling == "pixel-shuffle"
    doubling = 0 if network.upsample == "before" else network.decoder_convolutions - 1
    parts: list[nn.Module] = []
    for number in range(network.decoder_convolutions):
        taken = filters if number else channels
        if shuffles and number == doubling:
            convolved = [convolution(taken, 4 * filters, kernel), PixelShuffle()]
        else:
            convolved = [convolution(taken, filters, kernel)]
        keeps = taken == filters and len(convolved) == 1
        parts += step(network, convolved, filters=filters, keeps=keeps)
    if not shuffles:
        parts.insert(0 if network.upsample == "before" else len(parts), bilinear(network))
    return nn.Sequential(*parts)


def bilinear(network: Network) -> nn.Module:
    """The network's bilinear up-sampling by 2; half-pixel is torch's and Keras 3's kind."""
    if network.upsampling == "legacy":
        return LegacyUpsample()
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


def inner_shape(network: Network) -> tuple[int, int, int]:
    """Shape (F, h, w) between the convolutions and the dense layers."""
    side = -(-network.size // 2 ** len(network.filters))  # stride 2 rounds up each time
    return network.filters[-1], side, side


def inner_features(network: Network) -> int:
    """F x h x w, the width of the dense layers (4096 in the paper)."""
    filters, height, width = inner_shape(network)
    return filters * height * width


def output_activation(network: Network) -> nn.Module:
    """The last activation."""
    return nn.ReLU() if network.output == "relu" else Sigmoid()


class Sigmoid(nn.Sigmoid):
    """Under autocast in float32: in bfloat16 it is 1 from 6.2 on, and what is 1 learns no more."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """As nn.Sigmoid."""
        autocast = torch.is_autocast_enabled(input.device.type)
        return super().forward(input.float() if autocast else input)


class Encoder(nn.Module):
    """Images (B, C, H, W) -> mean (B, D) and log variance (B, D) of q(z | x)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        channels = (network.bands, *network.filters)
        self.blocks = nn.Sequential(
            *(
                down_block(network, *sizes)
                for sizes in zip(channels, network.filters, network.kernels, strict=False)
            )
        )
        # Both heads in one product: rows 0..D-1 give the mean, D..2D-1 the log variance.
        self.heads = nn.Linear(inner_features(network), 2 * network.latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, D), (B, D)."""
        mean, logvar = self.heads(self.blocks(x).flatten(1)).chunk(2, dim=-1)
        return mean, logvar


class Decoder(nn.Module):
    """Latents (B, D) -> images (B, C, H, W), at least 0 and not clipped at 1."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inner = inner_shape(network)
        self.dense = nn.Linear(network.latent, inner_features(network))
        self.activation = nn.LeakyReLU(network.slope)
        filters = network.decoder_filters or network.filters[::-1]
        channels = (network.filters[-1], *filters)
        self.blocks = nn.Sequential(
            *(
                up_block(network, *sizes)
                for sizes in zip(channels, filters, network.decoder_kernels, strict=False)
            )
        )
        self.output: nn.Conv2d | nn.Linear = convolution(filters[-1], network.bands, 3)
        self.last = output_activation(network)

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, C, H, W)."""
        x = self.activation(self.dense(z)).unflatten(1, self.inner)
        image: Tensor = self.last(self.output(self.blocks(x)))
        return image


class DenseDecoder(nn.Module):
    """Latents (B, D) -> images (B, C, H, W) by layers without convolutions."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.image_shape = (network.bands, network.size, network.size)
        widths = (network.latent, *network.decoder_widths)
        layers: list[nn.Module] = []
        for taken, given in itertools.pairwise(widths):
            layers += [nn.Linear(taken, given), nn.LeakyReLU(network.slope)]
        self.layers = nn.Sequential(*layers)
        self.output: nn.Conv2d | nn.Linear = nn.Linear(widths[-1], math.prod(self.image_shape))
        self.last = output_activation(network)

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, C, H, W)."""
        image: Tensor = self.last(self.output(self.layers(z)))
        return image.view(-1, *self.image_shape)


def decoder(network: Network) -> Decoder | DenseDecoder:
    """The network's decoder."""
    return DenseDecoder(network) if network.decoder == "dense" else Decoder(network)


def initialise(module: nn.Module) -> None:
    """Keras's defaults, which the paper used: Glorot uniform weights, biases at 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
