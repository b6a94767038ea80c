"""All that a training needs to go on after it was stopped: weights, optimiser, position, history.

What isn't here follows from the recipe and the position: data order, flips, views and noise are
functions of (seed, epoch, row), the learning rate and the loss weights of the epoch.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from avader.errors import TrainingError
from avader.model.vade import VaDE
from avader.recipe import Recipe
from avader.training.objective import TERMS, projection

VERSION = 2
MARK = b"avader training state\n"
DIGEST = hashlib.sha256().digest_size
Metrics = dict[str, float | int | str]


@dataclass
class Progress:
    """How far an epoch is: what a checkpoint within it must know.

    batches: done, skipped ones too. images: in the batches that counted. skipped: batches whose
    loss or gradient was not finite. seconds: spent. totals (7 + K,): the objective's TERMS and
    the responsibilities, float64, sums over images and ranks.
    """

    totals: Tensor
    batches: int = 0
    images: int = 0
    skipped: int = 0
    seconds: float = 0.0


@dataclass
class TrainingState:
    """A training between two batches.

    head: what the contrast compares latents by. epoch: epochs done. mixture_ready: whether the
    first mixture was made. partition (N,): int64, the part of each image in the partition that
    began the mixture, -1 where it was not in the sample; None where nothing asks for it.
    progress: of the epoch that has begun, or None between epochs. history: metrics of every epoch
    done, in order.
    """

    model: VaDE
    head: nn.Module
    optimiser: torch.optim.Adam
    epoch: int = 0
    mixture_ready: bool = False
    partition: Tensor | None = None
    progress: Progress | None = None
    history: list[Metrics] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.mixture_means.device

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that the optimiser trains, in its order."""
        yield from self.optimiser.param_groups[0]["params"]

    def fresh_progress(self) -> Progress:
        """The progress of an epoch that begins."""
        return Progress(torch.zeros(len(TERMS) + self.model.components, dtype=torch.float64))

    def set_components(self, components: int) -> None:
        """Change K before the mixture has trained; its parameters are to be set anew."""
        if components == self.model.components:
            return
        before = {id(p) for p in self.model.mixture_parameters()}
        self.model.set_components(components)
        group = self.optimiser.param_groups[0]
        kept = [p for p in group["params"] if id(p) not in before]
        for parameter in (p for p in group["params"] if id(p) in before):
            self.optimiser.state.pop(parameter, None)
        group["params"] = [*kept, *self.model.mixture_parameters()]

    def to_bytes(self) -> bytes:
        """The state as a file, its digest ahead; `restore` takes it."""
        sink = io.BytesIO()
        torch.save(
            {
                "version": VERSION,
                "components": self.model.components,
                "model": self.model.state_dict(),
                "head": self.head.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "epoch": self.epoch,
                "mixture_ready": self.mixture_ready,
                "partition": self.partition,
                "progress": None if self.progress is None else asdict(self.progress),
                "history": self.history,
            },
            sink,
        )
        content = sink.getvalue()
        return MARK + hashlib.sha256(content).digest() + content

    def restore(self, data: bytes) -> None:
        """Become the state that `to_bytes` gave.

        Raises TrainingError for another version's, and for bytes that are not whole.
        """
        if not is_whole(data):
            raise TrainingError(
                f"checkpoint: wanted a whole one, got {len(data):,} bytes that are not; remove it"
            )
        # weights_only: tensors and plain values, never code.
        content = io.BytesIO(data[len(MARK) + DIGEST :])
        # On the CPU, where an epoch's sums stay; parts of the model take theirs to their device.
        saved: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        if saved.get("version") != VERSION:
            raise TrainingError(
                f"checkpoint: wanted version {VERSION}, got {saved.get('version')}; "
                "train with the avader that wrote it, or choose another --out"
            )
        self.set_components(saved["components"])
        self.model.load_state_dict(saved["model"])
        self.head.load_state_dict(saved["head"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.epoch, self.history = saved["epoch"], saved["history"]
        self.mixture_ready, self.partition = saved["mixture_ready"], saved["partition"]
        begun = saved["progress"]
        self.progress = None if begun is None else Progress(**begun)


def is_whole(data: bytes) -> bool:
    """Whether these are all the bytes of a state, as its digest says."""
    start = len(MARK) + DIGEST
    digest = hashlib.sha256(memoryview(data)[start:]).digest()
    return data[:start] == MARK + digest


def fresh_state(recipe: Recipe, *, mean_pixel: float, device: str = "cpu") -> TrainingState:
    """A training that hasn't begun: weights are a function of the recipe's seed.

    mean_pixel: mean of the training images, in [0, 1]. The decoder's output starts there; with
    a ReLU that starts below 0 on every pixel no gradient would ever flow.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = VaDE(
            recipe.network,
            components=recipe.components,
            variance_floor=recipe.mixture.variance_floor,
        )
        head = projection(recipe)
    start = torch.tensor(mean_pixel).clamp(0.01, 0.99)
    bias = start.logit() if recipe.network.output == "sigmoid" else start
    nn.init.constant_(model.decoder.output.bias, float(bias))  # type: ignore[arg-type]
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    head.to(device)
    parameters = [*model.network_parameters(), *head.parameters(), *model.mixture_parameters()]
    optimiser = torch.optim.Adam(parameters, lr=recipe.optimiser.learning_rate)
    return TrainingState(model, head, optimiser)
