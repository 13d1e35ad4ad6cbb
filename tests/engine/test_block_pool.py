from __future__ import annotations

from cierzo.engine.block_pool import BlockPool


def contents(number: int) -> bytes:
    return bytes([number])


def test_a_published_chain_is_found_and_held() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2)
    _, node = pool.publish(first, "a", contents(0))
    pool.publish(second, node, contents(16))
    pool.release([second, first])
    assert pool.num_free == 4
    blocks, _ = pool.hold_prefix("a", map(contents, (0, 16, 32, 48)))
    assert blocks == [first, second]
    assert pool.num_free == 2


def test_the_same_tokens_behind_another_beginning_are_another_block() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2)
    _, node = pool.publish(first, "a", contents(0))
    pool.publish(second, node, contents(16))
    assert pool.hold_prefix("a", [contents(16)])[0] == []
    assert pool.hold_prefix("b", [contents(0)])[0] == []


def test_reuse_takes_unpublished_blocks_first_then_the_longest_unused() -> None:
    pool = BlockPool(3)
    old, young, plain = pool.allocate(3)
    pool.publish(old, "a", contents(0))
    pool.publish(young, "a", contents(100))
    for block in (old, young, plain):
        pool.release([block])
    assert pool.allocate(3) == [plain, old, young]
    assert pool.hold_prefix("a", [contents(0)])[0] == []


def test_a_held_block_outlives_one_of_its_holders() -> None:
    pool = BlockPool(1)
    (block,) = pool.allocate(1)
    pool.publish(block, "a", contents(0))
    assert pool.hold_prefix("a", [contents(0)])[0] == [block]
    pool.release([block])
    assert pool.num_free == 0
    pool.release([block])
    assert pool.num_free == 1


def test_publishing_what_is_there_already_moves_the_hold() -> None:
    pool = BlockPool(2)
    first, twin = pool.allocate(2)
    _, node = pool.publish(first, "a", contents(0))
    assert pool.publish(twin, "a", contents(0)) == (first, node)
    assert pool.num_free == 1
    pool.release([first])
    pool.release([first])
    assert pool.num_free == 2


def test_children_of_a_reused_block_are_never_found_behind_its_successor() -> None:
    pool = BlockPool(2)
    parent, child = pool.allocate(2)
    _, node = pool.publish(parent, "a", contents(0))
    pool.publish(child, node, contents(16))
    pool.release([parent])
    assert pool.allocate(1) == [parent]
    pool.publish(parent, "a", contents(50))
    assert pool.hold_prefix("a", [contents(50), contents(16)])[0] == [parent]


def test_the_latest_block_behind_another_is_told_until_it_is_reused() -> None:
    pool = BlockPool(3)
    old, young = pool.allocate(2)
    pool.publish(old, "a", contents(0))
    pool.publish(young, "a", contents(1))
    assert pool.latest("a") == (young, contents(1)) and pool.latest("b") is None
    pool.release([old, young])
    pool.allocate(3)
    assert pool.latest("a") is None


def test_a_block_is_never_copied_to_itself() -> None:
    pool = BlockPool(2)
    source, other = pool.allocate(2)
    pool.release([source])
    assert pool.allocate_beside(source) is None
    pool.release([other])
    assert pool.allocate_beside(source) == other
