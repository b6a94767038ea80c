"""What does our training loop cost beside a bare one, and what do bfloat16 and layout bring?

    python -m benchmarks.training_speed [--quick]

Three loops over the same network (the paper's, 128 x 128; batch 64), the same images in memory
and the same loss, in turn, several rounds in one process on all cores: ours as `train` runs it,
in bfloat16 where the machine has it natively; a bare PyTorch loop with the same precision and
layout (channels last), which flips at random, steps Adam and keeps no count of anything; and a
plain one in float32 with torch's default layout. ours_ratio is ours over bare, plain_ratio ours
over plain, each the median of the rounds' ratios.
"""

import statistics
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from avader.model import losses
from avader.model.schedule import at
from avader.model.vade import VaDE
from avader.pipelines.cores import cores
from avader.pipelines.memory import keep_freed_memory
from avader.recipe import Recipe
from avader.training.data import MemoryImages
from avader.training.loop import Watch, train_epoch
from avader.training.precision import has_native_bfloat16
from avader.training.state import fresh_state
from avader.training.task import Task
from benchmarks.common import last_line, machine, options, seconds
from benchmarks.training import recipe_of


def main() -> None:
    """Time the three loops in turn and print images per second and ratios."""
    quick = options(__doc__ or "").quick
    keep_freed_memory()
    torch.set_num_threads(cores())
    batch, batches, rounds = (8, 1, 2) if quick else (64, 2, 7)
    recipe = recipe_of("paper", mode="paper", precision="auto", optimiser={"batch": batch})
    size, native = recipe.network.size, has_native_bfloat16("cpu")
    pixels = np.random.default_rng(0).integers(
        0, 256, (batch * batches, 1, size, size), dtype=np.uint8
    )
    loops = {
        "ours": ours(recipe, pixels),
        "bare": bare(recipe, pixels, bfloat16=native),
        "plain": bare(recipe, pixels, bfloat16=False),
    }
    for loop in loops.values():
        loop()  # warm
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            rates[name].append(len(pixels) / seconds(loop))
        print(", ".join(f"{name} {found[-1]:.1f}" for name, found in rates.items()) + " images/s")
    figures = {f"{name}_images_per_second": statistics.median(rates[name]) for name in loops}
    for name, other in (("ours_ratio", "bare"), ("plain_ratio", "plain")):
        pairs = zip(rates["ours"], rates[other], strict=True)
        figures[name] = statistics.median(one / two for one, two in pairs)
    last_line(quick=quick, batch=batch, machine=machine(), **figures)


def ours(recipe: Recipe, pixels: NDArray[np.uint8]) -> Callable[[], None]:
    """An epoch of the gamma phase by our loop."""
    task = Task(recipe, MemoryImages(pixels))
    state = fresh_state(recipe, mean_pixel=0.5)

    def epoch() -> None:
        train_epoch(state, task, Watch())

    return epoch


def bare(recipe: Recipe, pixels: NDArray[np.uint8], *, bfloat16: bool) -> Callable[[], None]:
    """An epoch of the same arithmetic without anything around it."""
    torch.manual_seed(0)
    layout = torch.channels_last if bfloat16 else torch.contiguous_format
    network = VaDE(recipe.network, components=12, variance_floor=1e-4)
    network.to(memory_format=layout)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.network_parameters(), lr=3e-4)
    images = torch.from_numpy(pixels)
    gamma, batch = at(recipe.schedule, 0).unit_kl, recipe.optimiser.batch

    def epoch() -> None:
        for rows in torch.randperm(len(images)).split(batch):
            x = images[rows].to(memory_format=layout).float() / 255
            for axis in (-1, -2):
                which = (torch.rand(len(rows)) < 0.5)[:, None, None, None]
                x = torch.where(which, x.flip(axis), x)
            noise = torch.randn(len(rows), recipe.network.latent)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                mean, logvar, _, x_hat = (part.float() for part in network(x, noise))
            loss = losses.reconstruction(x, x_hat, "mse").mean()
            loss = loss + gamma * losses.unit_kl(mean, logvar).mean()
            loss = loss + recipe.optimiser.l2 * losses.l2(network)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return epoch


if __name__ == "__main__":
    main()
