"""The terms of the training loss, each for one image unless it says otherwise.

Legend: B images, C bands, H W pixels, D latent dimensions, K components. All logarithms are
natural, so every Kullback-Leibler term is in nats. A caller averages the terms over its images.
Sources: Kingma & Welling 2013, appendix B; Jiang et al. 2016, equation 9 and appendix C.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from avader.mixture.gaussian import GaussianMixture

MIXTURE_PREFIX = "mixture_"
"""Parameters whose names begin so are the mixture's; the others are the network's."""


def reconstruction(
    x: Tensor,
    x_hat: Tensor,
    kind: Literal["mse", "cross-entropy"],
    weight: Tensor | None = None,
) -> Tensor:
    """Reconstruction error of each image: x, x_hat (B, C, H, W) -> (B,).

    A SUM over bands and pixels: C*H*W times the mean squared error, or times the mean binary
    cross-entropy in nats (x_hat in [0, 1]; its logarithms are cut at -100). weight (B, 1, H, W):
    a factor on each pixel's error.
    """
    if kind == "mse":
        error = (x - x_hat).square()
    else:
        error = functional.binary_cross_entropy(x_hat, x, reduction="none")
    return (error if weight is None else error * weight).flatten(1).sum(1)


def unit_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL of N(mean, exp(logvar)) from N(0, 1), summed over D: (B, D), (B, D) -> (B,)."""
    return -0.5 * (1.0 + logvar - mean.square() - logvar.exp()).sum(1)


def mixture_kl(mean: Tensor, logvar: Tensor, g: Tensor, mixture: GaussianMixture) -> Tensor:
    """KL of q(z|x) q(c|x) from p(z, c), in closed form for given q(c|x) = g.

    mean, logvar (B, D), g (B, K) with rows that sum to 1 -> (B,), summed over K and D. It bounds
    the KL of q(z|x) from the marginal mixture from above. The D log 2 pi terms cancel; the loss
    values of the paper's published code are higher by 1/2 D log 2 pi.
    """
    expected = g * _expected_energy(mean, logvar, mixture)  # (B, K)
    prior = g * mixture.log_weights
    entropy = 0.5 * (1.0 + logvar).sum(1)  # of q(z|x), without 1/2 D log 2 pi
    return (expected - prior + _x_log_x(g)).sum(1) - entropy


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE of two views (B, P) of the same images, a scalar, nats: a mean over images.

    The cross-entropy, both ways, of finding an image's other view among all B by cosine
    similarity over the temperature. At least 0; log B where views tell nothing. Sources: van den
    Oord et al. 2018; Radford et al. 2021, figure 3, for the symmetric form.
    """
    first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    similarity = first @ second.T / temperature  # (B, B)
    own = torch.arange(len(first), device=first.device)
    return 0.5 * (
        functional.cross_entropy(similarity, own) + functional.cross_entropy(similarity.T, own)
    )


def mutual_information(joint: Tensor) -> Tensor:
    """Mutual information, nats, of a table (K, K) of two views' components; made symmetric first.

    At most log K, where views agree and all components are as large. Source: Ji et al. 2019.
    """
    joint = 0.5 * (joint + joint.T)
    rows, columns = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    return (_x_log_x(joint)).sum() - _x_log_x(rows).sum() - _x_log_x(columns).sum()


def pseudo_labels(log_joint: Tensor, partition: Tensor) -> Tensor:
    """Cross-entropy of p(c | z) towards given components: (B, K), (B,) -> (B,), nats.

    0 where the given component is -1.
    """
    return functional.cross_entropy(log_joint, partition, ignore_index=-1, reduction="none")


def l2(model: nn.Module) -> Tensor:
    """Sum of squares of the network's weights and biases, a scalar; the mixture has no part."""
    squares = [
        parameter.square().sum()
        for name, parameter in model.named_parameters()
        if not name.startswith(MIXTURE_PREFIX)
    ]
    return torch.stack(squares).sum()


def _expected_energy(mean: Tensor, logvar: Tensor, mixture: GaussianMixture) -> Tensor:
    """-E_q log N(z; m, v) less 1/2 D log 2 pi, for every component: (B, K)."""
    offset = mean[:, None, :] - mixture.means  # (B, K, D)
    second_moment = logvar.exp()[:, None, :] + offset.square()
    return 0.5 * (mixture.variances.log() + second_moment / mixture.variances).sum(2)


def _x_log_x(x: Tensor) -> Tensor:
    """x log x, with value and gradient 0 at x = 0."""
    return x * torch.where(x > 0, x, 1.0).log()
