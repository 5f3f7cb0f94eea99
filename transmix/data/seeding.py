"""Seeds derived from a key: the same (seed, epoch, index, ...) gives the same random numbers in any process.

So nothing depends on the number of loader workers, and a resumed run needs no replay.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """Return an integer below 2**63 that depends only on the parts."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators from a key, and restore them afterwards.

    For libraries that draw from them (timm's RandAugment and random erasing, torchvision's crops).
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@contextmanager
def python_generator(seed: int) -> Iterator[None]:
    """Seed Python's global generator from a key, and restore it afterwards; for timm's operations of RandAugment."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
