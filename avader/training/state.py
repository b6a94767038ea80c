"""All that a training needs to go on after it was stopped: weights, optimiser, position, history.

What isn't here follows from the recipe and the position: data order, flips and noise are functions
of (seed, epoch, row), the learning rate and the loss weights of the epoch.
"""

import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from avader.model.vade import VaDE
from avader.recipe import Recipe

VERSION = 1
Metrics = dict[str, float | int | str]


@dataclass
class TrainingState:
    """A training between two epochs.

    epoch: epochs done. mixture_ready: whether the first mixture was made. history: metrics of
    every epoch done, in order.
    """

    model: VaDE
    optimiser: torch.optim.Adam
    epoch: int = 0
    mixture_ready: bool = False
    history: list[Metrics] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.mixture_means.device

    def to_bytes(self) -> bytes:
        """The state as a file; `restore` takes it."""
        sink = io.BytesIO()
        torch.save(
            {
                "version": VERSION,
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "epoch": self.epoch,
                "mixture_ready": self.mixture_ready,
                "history": self.history,
            },
            sink,
        )
        return sink.getvalue()

    def restore(self, data: bytes) -> None:
        """Become the state that `to_bytes` gave. Raises ValueError for another version's."""
        # weights_only: tensors and plain values, never code.
        saved: dict[str, Any] = torch.load(
            io.BytesIO(data), map_location=self.device, weights_only=True
        )
        if saved.get("version") != VERSION:
            raise ValueError(
                f"checkpoint: wanted version {VERSION}, got {saved.get('version')}; "
                "train with the avader that wrote it, or choose another --out"
            )
        self.model.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.epoch, self.history = saved["epoch"], saved["history"]
        self.mixture_ready = saved["mixture_ready"]


def fresh_state(recipe: Recipe, *, mean_pixel: float, device: str = "cpu") -> TrainingState:
    """A training that hasn't begun: weights are a function of the recipe's seed.

    mean_pixel: mean of the training images, in [0, 1]. The decoder's output starts there; with
    a ReLU that starts below 0 on every pixel no gradient would ever flow.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = VaDE(
            recipe.network,
            components=recipe.mixture.components,
            variance_floor=recipe.mixture.variance_floor,
        )
    start = torch.tensor(mean_pixel).clamp(0.01, 0.99)
    bias = start.logit() if recipe.network.output == "sigmoid" else start
    nn.init.constant_(model.decoder.output.bias, float(bias))  # type: ignore[arg-type]
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.optimiser.learning_rate)
    return TrainingState(model, optimiser)
