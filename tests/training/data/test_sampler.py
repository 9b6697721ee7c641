"""Which images are in which micro-batch depends on the sampler's arguments and on nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from senet.errors import ConfigError
from senet.training.data.sampler import BatchSampler, balanced_order, epoch_order, mix_seeds


def test_seeds_mix() -> None:
    seeds = {mix_seeds(a, b, c) for a in range(5) for b in range(5) for c in range(3)}

    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_order_is_a_permutation_of_its_own_in_each_epoch_and_seed() -> None:
    orders = [tuple(epoch_order(50, seed=s, epoch=e).tolist()) for s in range(3) for e in range(3)]

    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_training_pass_has_whole_batches_only() -> None:
    [first, second] = BatchSampler(10, 4, key=(0, 0))

    assert (len(first), len(second)) == (4, 4)
    assert len({*first, *second}) == 8


def test_training_pass_keeps_images_that_fill_no_batch() -> None:
    assert sorted(*BatchSampler(10, 64, key=(0, 0))) == list(range(10))


def test_micro_batches_are_the_batches_of_one_process_cut() -> None:
    """Three steps, two processes, two parts each: in order, with their place in the batch."""
    torch.manual_seed(1)
    whole = list(BatchSampler(26, 8, key=(5, 2)))
    torch.manual_seed(2)
    cut = [
        list(BatchSampler(26, 8, key=(5, 2), rank=r, world_size=2, accumulate=2)) for r in (0, 1)
    ]

    assert [
        positions for pair in zip(*cut, strict=True) for part in pair for positions in part
    ] == [position for batch in whole for position in batch]
    for part in (part for parts in cut for part in parts):
        assert whole[part.step][part.part] == list(part)
        assert part.batch == 8


def test_a_pass_that_goes_on_is_the_end_of_a_whole_one() -> None:
    place = {"rank": 1, "world_size": 2, "accumulate": 2}
    whole = list(BatchSampler(40, 8, key=(0, 3), **place))  # type: ignore[arg-type]
    rest = BatchSampler(40, 8, key=(0, 3), skip=3, **place)  # type: ignore[arg-type]

    assert len(whole) == len(rest) == 10
    assert [(*part, part.step, part.part) for part in rest] == [
        (*part, part.step, part.part) for part in whole[3:]
    ]


def test_test_pass_has_every_image_in_order() -> None:
    assert [position for batch in BatchSampler(10, 4) for position in batch] == list(range(10))
    mine = [
        [p for batch in BatchSampler(5, 4, rank=r, world_size=2) for p in batch] for r in (0, 1)
    ]
    assert mine == [[0, 2, 4], [1, 3]]


def test_a_stream_comes_in_its_own_order() -> None:
    assert list(BatchSampler(9, 4, key=(0, 0), shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_batch_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match="8 images must be a multiple of 2 devices x 3 micro-b"):
        len(BatchSampler(100, 8, key=(0, 0), world_size=2, accumulate=3))


def test_a_micro_batch_travels_to_other_processes() -> None:
    [part] = BatchSampler(4, 4, key=(0, 0))
    again = copy.deepcopy(part)  # as pickle does, by __reduce_ex__

    assert (list(again), again.step, again.part, again.batch) == (list(part), 0, slice(0, 4), 4)


def test_a_balanced_epoch_has_as_many_of_each_class() -> None:
    """The images of a class come equally often, up to one; the order is a function of the epoch."""
    labels = (0,) * 70 + (1,) * 20 + (2,) * 7
    order = balanced_order(labels, seed=3, epoch=5)
    again = balanced_order(labels, seed=3, epoch=5)
    other = balanced_order(labels, seed=3, epoch=6)

    assert len(order) == 97
    assert torch.equal(order, again)
    assert not torch.equal(order, other)
    assert order.unique().numel() == 97  # an image that comes again has another number
    seen = torch.bincount(order % 97, minlength=97)
    of_class = torch.tensor(labels)
    assert sorted(int(seen[of_class == k].sum()) for k in range(3)) == [32, 32, 33]
    assert all(int(seen[of_class == k].max() - seen[of_class == k].min()) <= 1 for k in range(3))


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 2)])
def test_a_balanced_epoch_is_shared_and_gone_on_with(world: int, accumulate: int) -> None:
    labels = (0,) * 30 + (1,) * 5
    options: Any = {"key": (0, 1), "labels": labels}
    whole = [p for batch in BatchSampler(35, 8, **options) for p in batch]
    shares = [
        list(BatchSampler(35, 8, rank=r, world_size=world, accumulate=accumulate, **options))
        for r in range(world)
    ]
    parts = [p for micro in zip(*shares, strict=True) for share in micro for p in share]
    rest = list(BatchSampler(35, 8, skip=2, **options))

    assert parts == whole
    assert [p for batch in rest for p in batch] == whole[16:]
