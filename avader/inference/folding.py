"""The network's own arithmetic in fewer operations: the same numbers up to rounding.

- Bilinear up-sampling by 2 and the convolution after it become one convolution at the low
  resolution that gives the four pixels of each 2 x 2: 64 taps for the 100 of a 5 x 5 kernel, and
  the up-sampled maps are never made.
- Leaky ReLU comes after max-pooling, with which it commutes: on a quarter of the values.

Along an axis, up-sampling without edges is u[n] = sum_i g[n - 2i] x[i]. An edge changes that twice:
the outermost sample is repeated, and the convolution sees zeros beyond. Both changes are multiples
of the outermost sample alone, so that narrow convolutions of the rows and columns at the edges
correct the rim. Weights are folded in float64.

Legend: B images, C bands taken, O bands given, h w pixels before up-sampling, k the convolution's
kernel, r = k // 2, P = 2 phases (the parities of n), M taps of a phase, R rows near an edge.
"""

from collections.abc import Mapping
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from avader.model.networks import Decoder, DenseDecoder, Encoder, LegacyUpsample

Doubles = NDArray[np.float64]
Response = Mapping[int, float]
"""What a sample becomes: u[2i + n] by n."""
MIDDLE = 4
"""A sample so far from both edges that up-sampling does not feel them."""


class Folded(nn.Module):
    """Bilinear up-sampling by 2, then a convolution with stride 1 and zeros beyond the edges.

    Its kernel is odd, and at least 3.
    """

    def __init__(self, up: nn.Module, convolution: nn.Conv2d, size: tuple[int, int]) -> None:
        """size: (h, w) of what it takes."""
        super().__init__()
        weight = convolution.weight.detach().double().cpu().numpy()  # (O, C, k, k)
        free = _response(up, MIDDLE)
        taps, (before, after), self.skip = _phases(free, weight.shape[-1])
        folded = np.einsum("pmi,ocij,qnj->pqocmn", taps, weight, taps)
        # An uneven margin is padded first, which takes a copy.
        even = min(before, after)
        self.margin = 2 * (before - even, after - even)
        self.inner = _convolution(folded.reshape(-1, *folded.shape[3:]), padding=even)
        if convolution.bias is not None:
            bias = convolution.bias.detach().double().cpu().repeat(4)
            self.inner.bias = nn.Parameter(bias)
        near, far = _excess(free, _response(up, 0)), _excess(free, _response(up, -1))
        across = weight.swapaxes(2, 3)
        height, width = size
        self.top = Edge(up, weight, near, width, beyond=True)
        self.bottom = Edge(up, weight, far, width, beyond=True, far=True)
        self.left = Edge(up, across, near, height, beyond=False)
        self.right = Edge(up, across, far, height, beyond=False, far=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, O, 2h, 2w)."""
        out = _interleaved(self.inner(functional.pad(x, self.margin) if any(self.margin) else x))
        if self.skip:
            stop = self.skip - 2
            out = out[..., self.skip : stop, self.skip : stop]
        self._correct(out, x, self.top, self.bottom)
        self._correct(out.transpose(-1, -2), x.transpose(-1, -2), self.left, self.right)
        return out

    @staticmethod
    def _correct(out: Tensor, x: Tensor, near: "Edge", far: "Edge") -> None:
        """Correct the first and last rows, in place; all of them where there are few."""
        height = out.shape[-2]
        out[..., : near.rows, :] -= near(x[..., 0, :])[..., :height, :]
        out[..., -far.rows :, :] -= far(x[..., -1, :])[..., -height:, :]


class Edge(nn.Module):
    """What the inner convolution makes of an edge, less what the network makes of it."""

    line: Tensor

    def __init__(
        self,
        up: nn.Module,
        weight: Doubles,
        excess: Response,
        width: int,
        *,
        beyond: bool,
        far: bool = False,
    ) -> None:
        """weight (O, C, k, k): its third axis across the edge. excess: the up-sampled rows that are
        wrong, as multiples of the outermost row, counted from it. width: of that row, w. beyond:
        whether the row's own ends are those of the inner convolution, or the network's (a corner is
        corrected once)."""
        super().__init__()
        reach = weight.shape[-1] // 2
        # Output row y sees row n with tap n - y + r: those rows that see a wrong one and exist.
        first, last = (min(excess) - reach, 1) if far else (0, max(excess) + reach)
        self.rows = last - first + 1
        kernel = np.zeros((self.rows, *weight.shape[:2], 1, weight.shape[-1]))
        for row, place in enumerate(range(first, last + 1)):
            for wrong, share in excess.items():
                tap = wrong - place + reach
                if 0 <= tap < weight.shape[-1]:
                    kernel[row, :, :, 0] += share * weight[:, :, tap]
        self.convolution = _convolution(kernel.reshape(-1, *kernel.shape[2:]))
        self.register_buffer("line", _line(up, width, reach, beyond=beyond))

    def forward(self, row: Tensor) -> Tensor:
        """The outermost row (B, C, w) -> (B, O, R, 2w), in the order of the output's rows."""
        line = torch.matmul(self.line, row.transpose(1, 2))  # (B, 2w + 2r, C): channels last
        made: Tensor = self.convolution(line.transpose(1, 2)[..., None, :])  # (B, R O, 1, 2w)
        return made.view(len(made), self.rows, -1, made.shape[-1]).transpose(1, 2)


def _line(up: nn.Module, width: int, reach: int, *, beyond: bool) -> Tensor:
    """The matrix (2w + 2r, w) that up-samples a row, with what lies beyond its ends as in Edge."""
    rows = torch.eye(width, dtype=torch.float64)[:, None, None]
    if not beyond:
        return functional.pad(up(rows)[:, 0, 0], (reach, reach)).T.contiguous()
    pad = reach + 1
    line = up(functional.pad(rows, (pad, pad)))[:, 0, 0]
    return line[:, 2 * pad - reach : line.shape[-1] - 2 * pad + reach].T.contiguous()


def _interleaved(x: Tensor) -> Tensor:
    """(B, 4 O, h, w), of which the first axis of channels is the phase -> (B, O, 2h, 2w).

    torch's pixel shuffle keeps phases last: channels last, it moves numbers one by one.
    """
    count, filters, height, width = x.shape
    last = x.permute(0, 2, 3, 1).reshape(count, height, width, 2, 2, filters // 4)
    placed = last.transpose(2, 3).reshape(count, 2 * height, 2 * width, filters // 4)
    return placed.permute(0, 3, 1, 2)


def fast_encoder(encoder: Encoder) -> tuple[nn.Module, nn.Linear]:
    """Images (B, C, H, W) to features (B, F), leaky ReLU after max-pooling; and the heads.

    The heads make features mean and log variance (B, 2 D).
    """
    steps = _steps(encoder.blocks)
    for number in range(len(steps) - 1):
        pair = steps[number : number + 2]
        if isinstance(pair[0], nn.LeakyReLU) and isinstance(pair[1], nn.MaxPool2d):
            steps[number : number + 2] = reversed(pair)
    return nn.Sequential(*steps, nn.Flatten(1)), encoder.heads


def fast_decoder(decoder: Decoder | DenseDecoder) -> tuple[nn.Module, nn.Module]:
    """The layer that takes latents (B, D), and all that makes its features (B, F) images.

    Every up-sampling is folded into the convolution after it, if there is one.
    """
    if isinstance(decoder, DenseDecoder):
        dense, *layers = _steps(decoder.layers)
        shape = nn.Unflatten(1, decoder.image_shape)
        return dense, nn.Sequential(*layers, decoder.output, decoder.last, shape)
    steps = [*_steps(decoder.blocks), decoder.output]
    folded: list[nn.Module] = []
    size = decoder.inner[-1]
    while steps:
        first = steps.pop(0)
        if isinstance(first, LegacyUpsample | nn.Upsample):
            if _folds(following := steps[0]):
                first = Folded(first, following, (size, size))
                del steps[0]
            size *= 2
        folded.append(first)
    inner = nn.Unflatten(1, decoder.inner)
    return decoder.dense, nn.Sequential(decoder.activation, inner, *folded, decoder.last)


def _folds(step: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(step, nn.Conv2d) and step.kernel_size[0] >= 3


def _steps(module: nn.Module) -> list[nn.Module]:
    """The steps of nested sequences, one after another."""
    if not isinstance(module, nn.Sequential):
        return [module]
    return [step for child in module for step in _steps(child)]


def _response(up: nn.Module, place: int) -> Response:
    """What up-sampling makes of a lone sample at this place of a row, counted from 2 * place."""
    row = torch.zeros(1, 1, 1, 2 * MIDDLE + 1, dtype=torch.float64)
    row[..., place] = 1
    made = up(row)[0, 0, 0].numpy()
    start = 2 * (place % row.shape[-1])
    return {n - start: float(made[n]) for n in np.flatnonzero(made).tolist()}


def _excess(free: Response, edge: Response) -> Response:
    """By how much a sample's response without edges exceeds the one at an edge, where it does."""
    both = {n: free.get(n, 0.0) - edge.get(n, 0.0) for n in {*free, *edge}}
    return {n: both[n] for n in sorted(both) if both[n]}


def _phases(free: Response, kernel: int) -> tuple[Doubles, tuple[int, int], int]:
    """Taps (P, M, k) of two neighbouring outputs on the samples around them.

    Also the zeros that go before and after the samples, and how many outputs come too early: pairs
    begin at an even output, or before one where that takes fewer taps.
    """
    reach = kernel // 2
    found = []
    for begin in (0, -1):
        taps = {
            (phase, sample, tap): free[begin + phase + tap - reach - 2 * sample]
            for phase in range(2)
            for sample in range(-kernel, kernel + 1)
            for tap in range(kernel)
            if begin + phase + tap - reach - 2 * sample in free
        }
        first, last = (choose(sample for _, sample, _ in taps) for choose in (min, max))
        matrix = np.zeros((2, last - first + 1, kernel))
        for (phase, sample, tap), value in taps.items():
            matrix[phase, sample - first, tap] = value
        found.append((matrix, (-first, last - begin), -begin))
    return min(found, key=lambda each: each[0].shape[1])


def _convolution(weight: Doubles, padding: int = 0) -> nn.Conv2d:
    """A convolution with these weights (O, C, m, n), without bias."""
    given, taken, *size = weight.shape
    made = nn.Conv2d(taken, given, tuple(size), padding=padding, bias=False, dtype=torch.float64)
    made.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weight)))
    return made
