"""The order of samples: a bijection, a pure function of (seed, global index), the same for any number of ranks."""

import itertools
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firsthand.data.loader import Loader, permute

NAMES = [f"example {i}" for i in range(37)]


def take(loader: Loader, count: int) -> list[list[str]]:
    return [next(loader) for _ in range(count)]


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 700), seed=st.integers(0, 2**70), epoch=st.integers(0, 2**40))
def test_permute_is_a_bijection_of_every_range(n, seed, epoch):
    assert sorted(permute(i, n, seed, epoch) for i in range(n)) == list(range(n))


@given(n=st.integers(1, 2**60), index=st.integers(0, 2**60 - 1), seed=st.integers(0, 2**32))
def test_permute_stays_inside_ranges_of_any_size(n, index, seed):
    assert 0 <= permute(index % n, n, seed) < n


def test_one_feistel_round_trip_worked_by_hand():
    assert permute(0, 1, seed=5) == 0
    assert {permute(i, 2, seed=5) for i in (0, 1)} == {0, 1}
    # n = 6: a = isqrt(5) + 1 = 3 rows, b = 2 columns; a * b = 6 holds every pair once, so nothing walks in circles
    assert sorted(permute(i, 6, seed=5) for i in range(6)) == [0, 1, 2, 3, 4, 5]


def test_epochs_and_seeds_give_other_orders():
    orders = {tuple(permute(i, 100, seed, epoch) for i in range(100)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_every_place_is_equally_likely():
    """chi-squared over 7 x 7 places and 7,000 seeds: 36 degrees of freedom, mean 36, 1-in-10^6 bound 97."""
    n, seeds = 7, 7000
    seen = Counter((i, permute(i, n, seed)) for seed in range(seeds) for i in range(n))
    expected = seeds / n
    assert sum((seen[i, j] - expected) ** 2 / expected for i in range(n) for j in range(n)) < 97


def test_neighbours_do_not_stay_neighbours():
    n = 10_000
    order = [permute(i, n, seed=1) for i in range(n)]
    steps = [abs(a - b) for a, b in itertools.pairwise(order)]
    assert abs(sum(steps) / len(steps) - n / 3) < n / 60  # |x - y| of uniform x, y has mean n / 3
    assert sum(step == 1 for step in steps) < 12  # expected 2


def test_an_epoch_holds_every_example_once():
    loader = Loader(NAMES, batch_size=5, seed=3)
    epochs = list(itertools.chain.from_iterable(take(loader, 37 * 2)))  # 370 samples: ten epochs
    for epoch in range(10):
        assert sorted(epochs[37 * epoch : 37 * (epoch + 1)]) == sorted(NAMES)
    assert epochs[:37] != epochs[37:74]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_take_what_one_rank_would(world):
    alone = Loader(NAMES, batch_size=4 * world, seed=3)
    ranks = [Loader(NAMES, batch_size=4, seed=3, rank=rank, world=world) for rank in range(world)]
    for _ in range(30):
        together = [example for rank in ranks for example in next(rank)]
        assert together == next(alone)
        assert {rank.position for rank in ranks} == {alone.position}


def test_a_sample_is_where_the_formula_says():
    loader = Loader(NAMES, batch_size=4, seed=9, rank=1, world=3)
    batches = take(loader, 8)
    for m, row in itertools.product(range(8), range(4)):
        g = (m * 3 + 1) * 4 + row
        assert batches[m][row] == NAMES[permute(g % 37, 37, 9, g // 37)]


@pytest.mark.parametrize("prefetch", [0, 3])
def test_resuming_anywhere_gives_the_same_continuation(prefetch):
    whole = take(Loader(NAMES, batch_size=4, seed=3, rank=1, world=2), 25)
    for stop in (0, 1, 4, 9, 10, 24):
        first = Loader(NAMES, batch_size=4, seed=3, rank=1, world=2, prefetch=prefetch)
        take(first, stop)
        if prefetch:
            time.sleep(0.01)  # the thread runs ahead; what it read must not be lost
        second = Loader(NAMES, batch_size=4, seed=3, rank=1, world=2, start=first.position, prefetch=prefetch)
        assert take(second, 25 - stop) == whole[stop:]
        first.close()
        second.close()


def test_resuming_on_another_number_of_ranks_goes_on_with_the_next_samples():
    two = [Loader(NAMES, batch_size=5, seed=3, rank=rank, world=2) for rank in range(2)]
    for _ in range(3):
        for rank in two:
            next(rank)
    one = Loader(NAMES, batch_size=5, seed=3, start=two[0].position)
    order = [NAMES[permute(g % 37, 37, 3, g // 37)] for g in range(200)]
    assert list(itertools.chain.from_iterable(take(one, 20))) == order[30:130]


def test_position_counts_what_was_taken_not_what_was_read_ahead():
    loader = Loader(NAMES, batch_size=2, seed=0, prefetch=8)
    time.sleep(0.05)
    assert loader.position == 0
    take(loader, 3)
    assert loader.position == 6
    loader.close()
    assert not loader._ahead._thread.is_alive()


def test_an_error_while_reading_ahead_reaches_the_reader():
    class Broken(list):
        def __getitem__(self, index):
            raise OSError(f"cannot read example {index}")

    loader = Loader(Broken(NAMES), batch_size=2, seed=0, prefetch=2)
    for _ in range(2):  # and it is raised again, not turned into a hang
        with pytest.raises(OSError, match="cannot read example"):
            next(loader)
    loader.close()
