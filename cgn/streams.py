"""Seeds of independent random streams, and draws that depend on the position alone."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def stream_seed(seed: int, fold: int, purpose: str) -> int:
    """Seed of a random stream for one fold and purpose ("weights", "order"), independent of all others."""
    digest = hashlib.sha256(f"{seed}/{fold}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def endless(count: int, size: int, step: int, seed: Callable[[int], int]) -> Tensor:
    """The rows of one draw from an endless sequence of permutations: nothing has to be stored to resume it.

    Args:
        count: number of rows.
        size: rows per draw.
        step: number of the draw, from 0.
        seed: of the permutation with this number.

    Returns:
        `(size,)` int64.
    """
    positions = torch.arange(step * size, (step + 1) * size)
    numbers = {int(number) for number in positions // count}
    shuffled = {
        number: torch.randperm(count, generator=torch.Generator().manual_seed(seed(number)))
        for number in numbers
    }
    return torch.stack([shuffled[int(p) // count][int(p) % count] for p in positions])
