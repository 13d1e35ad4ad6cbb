"""One token stream in the engine: its tokens, how many have KV, and where that KV lies.

A sequence has no phase. It has `num_tokens`, of which `num_computed_tokens` have keys and
values; whatever lies between is still to compute, be it a long prompt, the one token of a
decode step, or everything again after a preemption. Knows nothing of the model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cierzo.config import BLOCK_SIZE, num_blocks_for
from cierzo.engine.block_pool import Node
from cierzo.engine.readout import MeanHidden, Reading, Row
from cierzo.engine.request import (
    FinishReason,
    GenerationRequest,
    LogitsConstraint,
    TokenEvent,
    TokenLogprob,
)

Int32 = NDArray[np.int32]


class Sequence:
    """The `index`-th continuation of a request.

    `arrival` orders requests by submission. Tokens before `prompt_end` (None: the prompt) are
    computed as prompt tokens, the others as completion tokens.
    `max_completion_tokens` is what `max_tokens` and the context allow, `ends_by_context` which of
    the two ends it. Behind its tokens may stand a draft: guesses at the next ones, which this step
    computes too (`speculation.py`). Sequences other than the request's first (`leader`) report
    the leader's cached tokens and prompt logprobs.
    """

    __slots__ = (
        "__weakref__",
        "_block_table",
        "_tokens",
        "arrival",
        "constraint",
        "ends_by_context",
        "finish_reason",
        "hidden",
        "index",
        "is_running",
        "leader",
        "max_completion_tokens",
        "mean_hidden",
        "num_blocks",
        "num_cached_tokens",
        "num_completion_tokens",
        "num_computed_tokens",
        "num_draft_tokens",
        "num_freed_blocks",
        "num_prompt_tokens",
        "num_published_blocks",
        "num_tokens",
        "params",
        "pooling",
        "prefix_node",
        "prompt_end",
        "prompt_logprobs",
        "request",
        "seed",
        "siblings",
        "workspace",
    )

    def __init__(
        self,
        request: GenerationRequest,
        arrival: int,
        max_model_len: int,
        seed: int,
        leader: Sequence | None = None,
        index: int = 0,
        prompt_end: int | None = None,
    ) -> None:
        self.request = request
        self.params = request.params
        self.workspace = request.workspace
        self.arrival = arrival
        self.index = index
        self.seed = seed
        self.leader = leader or self
        self.siblings: list[Sequence] = []
        self.constraint: LogitsConstraint | None = request.constraint
        if leader is not None and request.constraint is not None:
            self.constraint = request.constraint.fork()
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.prompt_end = self.num_prompt_tokens if prompt_end is None else prompt_end
        room = max_model_len - self.num_prompt_tokens
        asked = self.params.max_tokens
        self.max_completion_tokens = room if asked is None else min(asked, room)
        self.ends_by_context = asked is None or asked > room
        self._tokens = np.empty(self.num_prompt_tokens + 64, np.int32)
        self._tokens[: self.num_prompt_tokens] = request.prompt_token_ids
        self.num_tokens = self.num_prompt_tokens
        self.num_completion_tokens = 0
        self.num_computed_tokens = 0
        self.num_draft_tokens = 0
        self.num_cached_tokens: int | None = None  # None until first scheduled
        self.prompt_logprobs: list[TokenLogprob | None] = [None]  # the first has no distribution
        self.pooling = request.readout.pooling if request.readout is not None else None
        self.mean_hidden = MeanHidden() if self.pooling == "mean" else None
        self.hidden: Row | None = None  # what `pooling` made of the tokens, once all are computed
        self.is_running = False
        self.finish_reason: FinishReason | None = None
        self.num_blocks = 0
        self.num_freed_blocks = 0  # at the front, behind the sliding window
        self.num_published_blocks = 0
        self.prefix_node: Node = self.workspace
        self._block_table = np.full(num_blocks_for(len(self._tokens)), -1, np.int32)

    @property
    def edits_logits(self) -> bool:
        """True when the next token is not chosen from the model's distribution as it is."""
        return (
            self.constraint is not None
            or self.params.has_penalties
            or self.num_completion_tokens < self.params.min_tokens
        )

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def is_in_prompt(self) -> bool:
        """True while the next token is to be computed as a prompt token."""
        return self.num_computed_tokens < self.prompt_end

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def token_ids(self) -> Int32:
        """Prompt and completion, int32 [num_tokens]; a view, valid until the next `append`."""
        return self._tokens[: self.num_tokens]

    @property
    def draft_token_ids(self) -> Int32:
        """The guesses, int32 [num_draft_tokens]; likewise."""
        return self._tokens[self.num_tokens : self.num_tokens + self.num_draft_tokens]

    def with_draft(self, num_drafted: int) -> Int32:
        """The tokens as if the first guesses were right, int32 [num_tokens + num_drafted]."""
        return self._tokens[: self.num_tokens + num_drafted]

    @property
    def block_table(self) -> Int32:
        """Block ids, int32 [num_blocks]; -1 where freed behind the sliding window. A view."""
        return self._block_table[: self.num_blocks]

    @property
    def num_live_blocks(self) -> int:
        return self.num_blocks - self.num_freed_blocks

    def block_contents(self, index: int) -> bytes:
        """What decides a full block's KV, given the blocks before it: its tokens' ids, and how
        many of them were computed as prompt tokens."""
        start = index * BLOCK_SIZE
        num_prompt_tokens = min(max(self.prompt_end - start, 0), BLOCK_SIZE)
        token_ids = self._tokens[start : start + BLOCK_SIZE]
        return token_ids.tobytes() + bytes([num_prompt_tokens])

    def num_shared(self, index: int, contents: bytes) -> int:
        """How many of the first tokens of a full block with `contents` are those of this sequence's
        block `index`, and computed alike."""
        start = index * BLOCK_SIZE
        own = self._tokens[start : min(start + BLOCK_SIZE, self.num_tokens)]
        differs = np.frombuffer(contents, np.int32, len(own)) != own
        count = int(differs.argmax()) if differs.any() else len(own)
        num_prompt_tokens = min(max(self.prompt_end - start, 0), BLOCK_SIZE)
        if num_prompt_tokens != contents[-1]:
            count = min(count, num_prompt_tokens, contents[-1])
        return count

    @property
    def num_missing_prompt_logprobs(self) -> int:
        """Prompt positions whose logprobs are still to be computed (0 when not asked for)."""
        if self.params.prompt_logprobs is None or self.leader is not self:
            return 0
        return self.num_prompt_tokens - len(self.prompt_logprobs)

    @property
    def num_reusable_tokens(self) -> int:
        """Tokens at the start that need not be computed where their KV is cached: all but those
        whose logits or hidden states are wanted, which the last one's always are."""
        if self.mean_hidden is not None:
            return self.mean_hidden.num_tokens
        if self.num_missing_prompt_logprobs > 0:
            return len(self.prompt_logprobs) - 1
        return self.num_tokens - 1

    def tokens_from(self, start: int) -> list[int]:
        """The ids of its tokens behind the first `start`."""
        ids: list[int] = self._tokens[start : self.num_tokens].tolist()
        return ids

    def set_draft(self, token_ids: list[int]) -> None:
        while self.num_tokens + len(token_ids) > len(self._tokens):
            self._enlarge()
        self._tokens[self.num_tokens : self.num_tokens + len(token_ids)] = token_ids
        self.num_draft_tokens = len(token_ids)

    def _enlarge(self) -> None:
        self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])

    def append(self, token_id: int) -> None:
        if self.num_tokens == len(self._tokens):
            self._enlarge()
        self._tokens[self.num_tokens] = token_id
        self.num_tokens += 1
        self.num_completion_tokens += 1

    def add_blocks(self, blocks: list[int]) -> None:
        end = self.num_blocks + len(blocks)
        if end > len(self._block_table):
            larger = np.full(max(end, 2 * len(self._block_table)), -1, np.int32)
            larger[: self.num_blocks] = self.block_table
            self._block_table = larger
        self._block_table[self.num_blocks : end] = blocks
        self.num_blocks = end

    def clear_blocks(self) -> None:
        """Forget all KV: everything is to be computed again. The caller has released the blocks."""
        self.num_blocks = 0
        self.num_freed_blocks = 0
        self.num_published_blocks = 0
        self.num_computed_tokens = 0
        self.num_draft_tokens = 0
        self.prefix_node = self.workspace

    def event(
        self,
        token_id: int | None = None,
        logprob: TokenLogprob | None = None,
        error: str | None = None,
        reading: Reading | None = None,
    ) -> TokenEvent:
        """What this step tells the caller: the token, if any, and the end, if it is one."""
        leader = self.leader
        is_first = self.num_completion_tokens == (0 if token_id is None else 1)
        reports_prompt = is_first and self.params.prompt_logprobs is not None and error is None
        return TokenEvent(
            index=self.index,
            token_id=token_id,
            finish_reason="error" if error is not None else self.finish_reason,
            logprob=logprob,
            prompt_logprobs=tuple(leader.prompt_logprobs) if reports_prompt else None,
            num_cached_tokens=leader.num_cached_tokens or 0,
            error=error,
            reading=reading,
        )
