from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cierzo.engine.block_pool import BlockPool


def tokens(start: int) -> NDArray[np.int32]:
    """One block's worth of token ids."""
    return np.arange(start, start + 16, dtype=np.int32)


def test_a_published_chain_is_found_and_held() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2)
    _, node = pool.publish(first, "a", tokens(0))
    pool.publish(second, node, tokens(16))
    pool.release([second, first])
    assert pool.num_free == 4
    blocks, _ = pool.hold_prefix("a", np.arange(64, dtype=np.int32), 4)
    assert blocks == [first, second]
    assert pool.num_free == 2


def test_the_same_tokens_behind_another_beginning_are_another_block() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2)
    _, node = pool.publish(first, "a", tokens(0))
    pool.publish(second, node, tokens(16))
    assert pool.hold_prefix("a", tokens(16), 1)[0] == []
    assert pool.hold_prefix("b", tokens(0), 1)[0] == []


def test_reuse_takes_unpublished_blocks_first_then_the_longest_unused() -> None:
    pool = BlockPool(3)
    old, young, plain = pool.allocate(3)
    pool.publish(old, "a", tokens(0))
    pool.publish(young, "a", tokens(100))
    for block in (old, young, plain):
        pool.release([block])
    assert pool.allocate(3) == [plain, old, young]
    assert pool.hold_prefix("a", tokens(0), 1)[0] == []


def test_a_held_block_outlives_one_of_its_holders() -> None:
    pool = BlockPool(1)
    (block,) = pool.allocate(1)
    pool.publish(block, "a", tokens(0))
    assert pool.hold_prefix("a", tokens(0), 1)[0] == [block]
    pool.release([block])
    assert pool.num_free == 0
    pool.release([block])
    assert pool.num_free == 1


def test_publishing_what_is_there_already_moves_the_hold() -> None:
    pool = BlockPool(2)
    first, twin = pool.allocate(2)
    _, node = pool.publish(first, "a", tokens(0))
    assert pool.publish(twin, "a", tokens(0)) == (first, node)
    assert pool.num_free == 1
    pool.release([first])
    pool.release([first])
    assert pool.num_free == 2


def test_children_of_a_reused_block_are_never_found_behind_its_successor() -> None:
    pool = BlockPool(2)
    parent, child = pool.allocate(2)
    _, node = pool.publish(parent, "a", tokens(0))
    pool.publish(child, node, tokens(16))
    pool.release([parent])
    assert pool.allocate(1) == [parent]
    pool.publish(parent, "a", tokens(50))
    assert pool.hold_prefix("a", np.concatenate([tokens(50), tokens(16)]), 2)[0] == [parent]
