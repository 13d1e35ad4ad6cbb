"""Who holds which KV block, and which prefix is in it: reference counts, reuse, prefix cache.

The prefix cache is a tree kept in one dict. A full block's key is (its parent's node, its own
contents: `Sequence.block_contents`); the root of a tree is the workspace's name. Keys are compared
exactly, never by hash alone, so neither a hash collision nor another workspace can lead to a
foreign block. Knows nothing of sequences or of what the contents mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

Node = int | str
"""A published block's number, never used twice; or the name of the workspace at the root."""


class BlockPool:
    """`num_blocks` blocks of 16 tokens, each free or held by one or more sequences.

    A free block keeps its contents, and its place in the prefix cache, until it is reused:
    blocks without a place first, then the longest unused.
    """

    def __init__(self, num_blocks: int, *, prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.prefix_caching = prefix_caching
        self._num_holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._published: dict[tuple[Node, bytes], tuple[int, int]] = {}  # key → (block, node)
        self._keys: list[tuple[Node, bytes] | None] = [None] * num_blocks
        self._latest: dict[Node, bytes] = {}  # parent → the contents published behind it last
        self._num_nodes = 0
        self.num_ever_held = 0  # blocks from this one on never were

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, whose contents are undefined. The caller checked `num_free`."""
        blocks = []
        for _ in range(count):
            block, _none = self._free.popitem(last=False)
            key = self._keys[block]
            if key is not None:
                del self._published[key]
                self._keys[block] = None
                if self._latest.get(key[0]) == key[1]:
                    del self._latest[key[0]]
            self._num_holders[block] = 1
            self.num_ever_held = max(self.num_ever_held, block + 1)
            blocks.append(block)
        return blocks

    def release(self, blocks: list[int]) -> None:
        """Give up one hold on each block. Order: first given is first reused."""
        for block in blocks:
            self._num_holders[block] -= 1
            if self._num_holders[block] == 0:
                self._free[block] = None
                if self._keys[block] is None:
                    self._free.move_to_end(block, last=False)

    def hold_prefix(self, workspace: str, contents: Iterable[bytes]) -> tuple[list[int], Node]:
        """The longest chain of published blocks that holds `contents`, block by block.

        Takes a hold on each. Returns them with the chain's last node.
        """
        blocks: list[int] = []
        node: Node = workspace
        for content in contents:
            found = self._published.get((node, content))
            if found is None:
                break
            block, node = found
            self._hold(block)
            blocks.append(block)
        return blocks, node

    def publish(self, block: int, parent: Node, contents: bytes) -> tuple[int, Node]:
        """Offer a full block, held by the caller, for reuse behind `parent`.

        When an equal block is already there (a row's KV depends on its prefix alone, so they
        are equal to the bit) the caller's hold moves to that one and its own is freed.
        Returns the block now held and its node.
        """
        if not self.prefix_caching:
            return block, parent
        key = (parent, contents)
        found = self._published.get(key)
        if found is None:
            self._num_nodes += 1
            self._published[key] = (block, self._num_nodes)
            self._keys[block] = key
            self._latest[parent] = contents
            return block, self._num_nodes
        other, node = found
        self._hold(other)
        self.release([block])
        return other, node

    def latest(self, parent: Node) -> tuple[int, bytes] | None:
        """The block published last behind `parent`, and its contents: who comes next is likely to
        begin like it."""
        contents = self._latest.get(parent)
        return None if contents is None else (self._published[parent, contents][0], contents)

    def allocate_beside(self, source: int) -> int | None:
        """A block to copy `source` to, None where there is no other. Nobody may write to either
        before the copy is made."""
        self._hold(source)
        target = self.allocate(1)[0] if self._free else None
        self.release([source])
        return target

    def _hold(self, block: int) -> None:
        if self._num_holders[block] == 0:
            del self._free[block]
        self._num_holders[block] += 1
