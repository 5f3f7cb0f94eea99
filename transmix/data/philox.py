"""Counter-based random numbers in torch integers: the same on every device and in any batch.

The function is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), which maps four
counters and two keys of 32 bits to four words of 32 bits. The counters are a sample's index,
epoch and repeat, and a position, so a sample's numbers do not depend on other draws or on the process.
"""

import torch
from torch import Tensor

from transmix.data.seeding import derive_seed

WORD = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what the two keys grow by from round to round
ROUNDS = 10
PLACES = 1 << 24
"""Blocks of four words that a stream has for each sample."""

PLACE, JITTER, CROP, BOX, NOISE, LAYER = range(6)
"""Streams: what words are for. Those of one say nothing about those of another."""


def philox(counters: tuple[Tensor, ...], keys: tuple[int, int]) -> tuple[Tensor, ...]:
    """Map four tensors of counters to four tensors of words, both int64 in [0, 2**32), elementwise.

    Products must stay in the range of int64, because overflow is undefined. So a multiplier m is used as m - 2**32,
    which is small and negative: x * m = x * (m - 2**32) + x * 2**32 has its upper word in `(product >> 32) + x`.

    Args:
        counters: four tensors with shapes that broadcast.
        keys: two, each in [0, 2**32).
    """
    first, second, third, fourth = counters
    for turn in range(ROUNDS):
        key_0, key_1 = ((start + turn * step) & WORD for start, step in zip(keys, WEYL, strict=True))
        product_0, product_1 = first * (MULTIPLIERS[0] - 2**32), third * (MULTIPLIERS[1] - 2**32)
        first, second, third, fourth = (
            ((product_1 >> 32) + third) ^ second ^ key_0,
            product_1 & WORD,
            ((product_0 >> 32) + first) ^ fourth ^ key_1,
            product_0 & WORD,
        )
    return first, second, third, fourth


def seed_keys(seed: int) -> tuple[int, int]:
    """Return the two keys that follow from a run's seed."""
    whole = derive_seed(seed, "on-device")
    return whole >> 32, whole & WORD


def words(samples: Tensor, keys: tuple[int, int], stream: int, blocks: int = 1) -> Tensor:
    """Return words (n, blocks, 4), int64 in [0, 2**32), of n samples.

    Args:
        samples: (n, 3) int64, (epoch, index, repeat) a row, each in [0, 2**32).
        keys: Philox keys of the run.
        stream: number of the use (flip, crop, ...), so that uses do not share words.
        blocks: number of blocks of four words.

    Raises:
        ValueError: more blocks than a stream has.
    """
    if blocks > PLACES:
        raise ValueError(f"a stream has {PLACES} blocks of words for each sample, not {blocks}")
    place = torch.arange(stream * PLACES, stream * PLACES + blocks, device=samples.device)
    epoch, index, repeat = (part[:, None] for part in samples.unbind(1))
    return torch.stack(philox((index, epoch, repeat, place), keys), dim=-1)


def below(words: Tensor, count: int | Tensor) -> Tensor:
    """Return integers in [0, count), uniform up to a bias of count / 2**32; count < 2**31."""
    return words * count >> 32


def chance(words: Tensor, probability: float) -> Tensor:
    """Return true with the given probability: never at 0, always at 1."""
    return words < round(probability * 2**32)


def fraction(words: Tensor) -> Tensor:
    """Return float64 in [0, 1), in steps of 2**-32, which are exact."""
    return words.double() * 2.0**-32


def middle_fractions() -> Tensor:
    """Return the midpoints of 65,536 equal parts of [0, 1], float64 on the CPU.

    Quantile functions (exponential, normal) are computed at these points once, on the CPU, and looked up by the upper
    16 bits of a word. So they cannot differ between devices.
    """
    return (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
