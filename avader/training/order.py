"""The order of an epoch: one for images in memory and images that are streamed.

Images lie in blocks (the shards that `pack` wrote). The blocks are shuffled under (seed, epoch)
and laid out in windows of about as many images as the recipe says; within a window the images are
shuffled as one. So a reader that goes from block to block never holds more than a window, and the
order depends on neither the workers nor where the images are. Where all images fit in a window it
is a permutation of all of them.

Legend: N rows, S blocks.
"""

import numpy as np

from avader.training.noise import Purpose, Rows, permutation


def block_edges(sizes: list[int]) -> Rows:
    """First row of each block, and the number of rows after the last: (S + 1,)."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def epoch_order(rows: Rows, edges: Rows, *, window: int, seed: int, epoch: int) -> Rows:
    """These rows (N,), sorted as given, in the order of an epoch; edges (S + 1,): see block_edges.

    A window holds at most `window` rows and those of one more block.
    """
    windows = -(-len(rows) // window)
    if windows <= 1:
        return rows[permutation(seed, Purpose.ORDER, epoch, len(rows))]
    blocks = permutation(seed, Purpose.BLOCKS, epoch, len(edges) - 1)
    inner = np.searchsorted(rows, edges)  # where each block's rows are among those given
    sizes = np.diff(inner)[blocks]
    window_of = (np.cumsum(sizes) - sizes) * windows // len(rows)
    found = []
    for number in range(windows):
        own = np.sort(blocks[window_of == number])
        pieces = [rows[inner[block] : inner[block + 1]] for block in own]
        together = np.concatenate(pieces) if pieces else rows[:0]
        found.append(together[permutation(seed, Purpose.ORDER, epoch, len(together), part=number)])
    return np.concatenate(found)
