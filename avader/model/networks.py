"""Encoder and decoder (paper, section 3.4); every size comes from the recipe's Network.

Legend: B images, C bands, H W pixels, D latent dimensions, F filters of the innermost block,
h w its pixels. Convolutions have stride 1 and keep the size; flatten order is F, h, w.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from avader.recipe import Network


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


def upsample(network: Network) -> nn.Module:
    """The network's bilinear up-sampling by 2; half-pixel is torch's and Keras 3's kind."""
    if network.upsampling == "legacy":
        return LegacyUpsample()
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


def convolution(channels: int, filters: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the size: zeros beyond the edges."""
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2)


def block(channels: int, filters: int, kernel: int, *, slope: float, last: nn.Module) -> nn.Module:
    """Twice convolution and leaky ReLU, then pooling or up-sampling."""
    return nn.Sequential(
        convolution(channels, filters, kernel),
        nn.LeakyReLU(slope),
        convolution(filters, filters, kernel),
        nn.LeakyReLU(slope),
        last,
    )


def inner_shape(network: Network) -> tuple[int, int, int]:
    """Shape (F, h, w) between the convolutions and the dense layers."""
    side = int(network.size // 2 ** len(network.filters))
    return network.filters[-1], side, side


def inner_features(network: Network) -> int:
    """F x h x w, the width of the dense layers (4096 in the paper)."""
    filters, height, width = inner_shape(network)
    return filters * height * width


class Encoder(nn.Module):
    """Images (B, C, H, W) -> mean (B, D) and log variance (B, D) of q(z | x)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        channels = (network.bands, *network.filters)
        self.blocks = nn.Sequential(
            *(
                block(*sizes, slope=network.slope, last=nn.MaxPool2d(2))
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
        filters = network.filters[::-1]
        channels = (filters[0], *filters)
        self.blocks = nn.Sequential(
            *(
                block(*sizes, slope=network.slope, last=upsample(network))
                for sizes in zip(channels, filters, network.decoder_kernels, strict=False)
            )
        )
        self.output = convolution(filters[-1], network.bands, 3)
        self.last = nn.ReLU() if network.output == "relu" else nn.Sigmoid()

    def forward(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, C, H, W)."""
        x = self.activation(self.dense(z)).unflatten(1, self.inner)
        image: Tensor = self.last(self.output(self.blocks(x)))
        return image


def initialise(module: nn.Module) -> None:
    """Keras's defaults, which the paper used: Glorot uniform weights, biases at 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
