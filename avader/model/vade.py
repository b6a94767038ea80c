"""The variational autoencoder whose prior is a Gaussian mixture (VaDE; paper, section 3).

    x --encoder--> q(z | x) = N(mean, exp(logvar)) --sample--> z --decoder--> x_hat
    p(z) = sum_c pi_c N(z; m_c, diag v_c)

Where it differs from the published code: the weights pi are a softmax, so they sum to 1; the
variances live in log space above a floor; both heads are one layer. The mixture is held in
float64 whatever the network's precision, because catalogues compute probabilities in float64.

Legend: B images, C bands, H W pixels, D latent dimensions, K components.
"""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from avader.errors import InputError
from avader.mixture.gaussian import GaussianMixture
from avader.model.networks import Encoder, decoder, initialise
from avader.recipe import Network

# Least weight of a component, and least excess of a variance over its floor (in floors), that
# a fitted mixture is given: 0 has no logarithm.
LEAST_WEIGHT = 1e-12
LEAST_EXCESS = 1e-3


class VaDE(nn.Module):
    """Encoder, decoder and mixture.

    mixture_logits (K,): pi = softmax. mixture_means (K, D). mixture_log_variances (K, D):
    v = variance_floor + exp, so that a component at the floor still has a gradient.
    """

    mixture_logits: nn.Parameter
    mixture_means: nn.Parameter
    mixture_log_variances: nn.Parameter

    def __init__(self, network: Network, *, components: int, variance_floor: float) -> None:
        super().__init__()
        self.network = network
        self.variance_floor = variance_floor
        self.encoder = Encoder(network)
        self.decoder = decoder(network)
        self.set_components(components)
        self.apply(initialise)

    def set_components(self, components: int) -> None:
        """Give the mixture K components, unit Gaussians of equal weight, as new parameters."""
        self.components = components
        device = self.encoder.heads.weight.device
        shape = (components, self.network.latent)
        for name, size in (
            ("mixture_logits", shape[:1]),
            ("mixture_means", shape),
            ("mixture_log_variances", shape),
        ):
            values = torch.zeros(size, dtype=torch.float64, device=device)
            setattr(self, name, nn.Parameter(values))

    def mixture_parameters(self) -> list[nn.Parameter]:
        """The mixture's own parameters: logits, means, log variances."""
        return [self.mixture_logits, self.mixture_means, self.mixture_log_variances]

    def network_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> mean (B, D) and log variance (B, D) of q(z | x)."""
        mean, logvar = self.encoder(x)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, D) -> images (B, C, H, W), not clipped at 1."""
        image: Tensor = self.decoder(z)
        return image

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (B, C, H, W) and standard normals (B, D) -> mean, logvar, z, x_hat.

        z = mean + exp(logvar / 2) noise is the sample that x_hat is decoded from.
        """
        mean, logvar = self.encode(x)
        z = mean + (0.5 * logvar).exp() * noise
        return mean, logvar, z, self.decode(z)

    def mixture(self) -> GaussianMixture:
        """The mixture in float64: log weights (K,), means (K, D), variances (K, D)."""
        return GaussianMixture(
            log_weights=self.mixture_logits.log_softmax(-1),
            means=self.mixture_means,
            variances=self.variance_floor + self.mixture_log_variances.exp(),
        )

    @torch.no_grad()
    def set_mixture(self, weights: ArrayLike, means: ArrayLike, variances: ArrayLike) -> None:
        """Take weights (K,), relative, means (K, D) and variances (K, D), in place."""
        values = mixture_parameters(weights, means, variances, floor=self.variance_floor)
        for name, value in values.items():
            parameter = self.get_parameter(name)
            if value.shape != parameter.shape:
                raise InputError(
                    f"{name}: wanted shape {tuple(parameter.shape)}, got {tuple(value.shape)}; "
                    "fit the mixture with the model's own components and latent dimensions"
                )
            parameter.copy_(value)


def mixture_parameters(
    weights: ArrayLike, means: ArrayLike, variances: ArrayLike, *, floor: float
) -> dict[str, Tensor]:
    """VaDE's three mixture parameters, float64, from weights (K,), means and variances (K, D).

    Weights are normalised; one of 0 becomes 1e-12. A variance at the floor or below becomes
    1.001 floors. Raises InputError for values that are no mixture.
    """
    pi, m, v = (torch.as_tensor(a, dtype=torch.float64) for a in (weights, means, variances))
    for name, value, good in (
        ("weights", pi, bool((pi >= 0).all()) and float(pi.sum()) > 0),
        ("means", m, True),
        ("variances", v, bool((v > 0).all())),
    ):
        if not (good and bool(value.isfinite().all())):
            raise InputError(
                f"mixture {name}: wanted finite numbers, weights >= 0 and variances > 0, "
                f"got {value.min():g} to {value.max():g}"
            )
    pi = (pi / pi.sum()).clamp_min(LEAST_WEIGHT)
    return {
        "mixture_logits": pi.log(),
        "mixture_means": m,
        "mixture_log_variances": (v - floor).clamp_min(LEAST_EXCESS * floor).log(),
    }
