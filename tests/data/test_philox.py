"""The numbers of a counter: published answers, no dependence on the batch, uniform and independent over every key."""

import itertools
import random

import pytest
import torch
from scipy import stats

from transmix.data import philox as philox_module
from transmix.data.philox import below, chance, fraction, middle_fractions, philox, seed_keys, words

ONES = 2**32 - 1
KEYS = (0x12345678, 0x9ABCDEF0)

# Random123's file kat_vectors, philox4x32 with 10 rounds: counters, keys, words.
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def slow_philox(counters, keys):
    """The function as the paper states it, in Python's unbounded numbers."""
    a, b, c, d = counters
    k, m = keys
    for _ in range(10):
        low, high = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = high // 2**32 ^ b ^ k, high % 2**32, low // 2**32 ^ d ^ m, low % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return a, b, c, d


def grid(epochs, indices, repeats):
    return torch.tensor(list(itertools.product(range(epochs), range(indices), range(repeats))))


@pytest.mark.parametrize(("counters", "keys", "answer"), PUBLISHED)
def test_published_answers_are_given(counters, keys, answer):
    assert tuple(map(int, philox(tuple(map(torch.tensor, counters)), keys))) == answer
    assert slow_philox(counters, keys) == answer


def test_every_range_of_counters_agrees_with_unbounded_numbers():
    rng = random.Random(0)
    extremes = [0, 1, 2**16 - 1, 2**16, 2**31 - 1, 2**31, ONES]
    rows = [[rng.choice(extremes) for _ in range(6)] for _ in range(150)]
    rows += [[rng.getrandbits(32) for _ in range(6)] for _ in range(150)]
    for row in rows:
        found = philox(tuple(torch.tensor([part]) for part in row[:4]), (row[4], row[5]))
        assert tuple(map(int, found)) == slow_philox(row[:4], row[4:])


def test_words_are_those_of_index_epoch_repeat_and_place():
    samples = torch.tensor([[3, 70_000, 0], [299, 5, 2]])
    found = words(samples, KEYS, stream=4, blocks=3)
    assert found.shape == (2, 3, 4)
    assert found.dtype == torch.int64
    for row, (epoch, index, repeat) in enumerate(samples.tolist()):
        for block in range(3):
            assert tuple(found[row, block].tolist()) == slow_philox((index, epoch, repeat, (4 << 24) + block), KEYS)


def test_words_depend_neither_on_the_batch_nor_on_its_order():
    samples = grid(2, 9, 2)
    all_of_them = words(samples, KEYS, 1, 2)
    shuffled = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    assert words(samples[shuffled], KEYS, 1, 2).equal(all_of_them[shuffled])
    assert all(words(samples[row : row + 1], KEYS, 1, 2).equal(all_of_them[row : row + 1]) for row in range(36))


def test_seeds_have_their_own_two_keys():
    found = [seed_keys(seed) for seed in range(50)]
    assert len(set(found)) == 50
    assert all(0 <= part < 2**32 for keys in found for part in keys)


def test_more_blocks_than_a_stream_has_are_refused(says):
    with says(ValueError, "a stream has 16777216 blocks of words for each sample, not 16777217"):
        words(grid(1, 1, 1), KEYS, 0, 2**24 + 1)


def test_compiled_without_a_break_the_words_are_the_same():
    torch._dynamo.reset()
    compiled = torch.compile(lambda samples: words(samples, KEYS, 2, 3), fullgraph=True, backend="aot_eager")
    assert compiled(grid(2, 7, 2)).equal(words(grid(2, 7, 2), KEYS, 2, 3))


# Statistics. Seeds are fixed: each passes or fails for good.


def looks_uniform(numbers, cells):
    counts = torch.bincount(numbers.flatten(), minlength=cells)
    return stats.chisquare(counts).pvalue > 1e-3


def test_every_byte_of_every_word_is_uniform():
    found = words(grid(4, 8000, 1), KEYS, 0)[:, 0]
    for word in range(4):
        for shift in (0, 8, 16, 24):
            assert looks_uniform(found[:, word] >> shift & 255, 256)


def test_bytes_that_lean_are_not_called_uniform():
    found = words(grid(4, 8000, 1), KEYS, 0)[:, 0, 0] & 255
    assert not looks_uniform(torch.where(found == 7, 8, found), 256)
    assert not looks_uniform(found % 250, 256)


NEXT_TO = {
    "index": lambda samples: words(samples + torch.tensor([0, 1, 0]), KEYS, 0),
    "epoch": lambda samples: words(samples + torch.tensor([1, 0, 0]), KEYS, 0),
    "repeat": lambda samples: words(samples + torch.tensor([0, 0, 1]), KEYS, 0),
    "stream": lambda samples: words(samples, KEYS, 1),
    "seed": lambda samples: words(samples, (KEYS[0], KEYS[1] + 1), 0),
    "block": lambda samples: words(samples, KEYS, 0, 2)[:, 1:],
    "word": lambda samples: words(samples, KEYS, 0).roll(1, 2),
}


def look_independent(one, other):
    return looks_uniform((one >> 28) * 16 + (other >> 28), 256)


@pytest.mark.parametrize("neighbour", NEXT_TO)
def test_neighbours_in_each_key_are_independent(neighbour):
    samples = grid(4, 8000, 1)
    assert look_independent(words(samples, KEYS, 0)[:, 0, 0], NEXT_TO[neighbour](samples)[:, 0, 0])


def test_words_that_forget_the_epoch_are_not_called_independent():
    def forgetful(samples):
        return words(samples * torch.tensor([0, 1, 1]), KEYS, 0)[:, 0, 0]

    samples = grid(1, 16_000, 1)
    assert not look_independent(forgetful(samples), forgetful(samples + torch.tensor([1, 0, 0])))


def share_of_flipped_bits():
    """For each of the 128 bits of the counters, how many of the 128 bits that come out it turns, least and most."""
    generator = torch.Generator().manual_seed(0)
    counters = torch.randint(2**32, (4, 200), generator=generator)
    before = torch.stack(philox(tuple(counters), KEYS))
    shares = []
    for place, bit in itertools.product(range(4), range(32)):
        turned = counters.clone()
        turned[place] ^= 1 << bit
        changed = torch.stack(philox(tuple(turned), KEYS)) ^ before
        shares.append((changed[..., None] >> torch.arange(32) & 1).double().mean())
    return float(min(shares)), float(max(shares))


def test_each_bit_of_a_counter_turns_half_of_the_bits(monkeypatch):
    low, high = share_of_flipped_bits()
    assert 0.48 < low < high < 0.52
    monkeypatch.setattr(philox_module, "ROUNDS", 2)
    low, high = share_of_flipped_bits()
    assert low < 0.3


# What is made of words.


def test_below_gives_each_number_as_often_as_the_others():
    found = words(grid(2, 9000, 1), KEYS, 0)
    for count in (1, 2, 7, 9):
        assert looks_uniform(below(found, count), count) or count == 1
        assert set(below(found, count).flatten().tolist()) == set(range(count))
    ends = torch.tensor([0, ONES])
    assert below(ends, torch.tensor([5, 2**31 - 1])).tolist() == [0, 2**31 - 2]


def test_chance_is_never_at_0_always_at_1_and_else_as_often_as_it_says():
    found = words(grid(2, 9000, 1), KEYS, 0)
    assert not chance(torch.tensor([0, ONES]), 0.0).any()
    assert chance(torch.tensor([0, ONES]), 1.0).all()
    assert abs(float(chance(found, 0.3).double().mean()) - 0.3) < 0.005


def test_fractions_are_exact():
    found = torch.tensor([0, 1, 2**31, ONES])
    assert fraction(found).dtype == torch.float64
    assert fraction(found).tolist() == [0.0, 2.0**-32, 0.5, 1 - 2.0**-32]
    parts = middle_fractions()
    assert parts[0] == 2.0**-17
    assert parts[-1] == 1 - 2.0**-17
    assert float(parts.mean()) == 0.5
