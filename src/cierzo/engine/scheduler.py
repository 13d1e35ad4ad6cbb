"""Which tokens the next step computes, and what becomes of them: continuous batching.

There are no phases: a sequence has tokens still to compute. One-token steps (decode) go
first, so that running answers never wait for a long prompt; the rest of the token budget goes
to prompts, whole or in chunks, workspace after workspace. When blocks run out the youngest
sequence is preempted: its blocks are freed and it is computed again later, to the same result.
Knows nothing of logits.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator

import numpy as np

from cierzo.config import BLOCK_SIZE, EngineConfig, ModelConfig, num_blocks_for
from cierzo.engine.batch import Batch, build_batch
from cierzo.engine.block_pool import BlockPool
from cierzo.engine.request import FinishReason, TokenEvent
from cierzo.engine.sampler import Sample
from cierzo.engine.sequence import Sequence
from cierzo.engine.speculation import Speculator
from cierzo.errors import SettingError

MAX_PROMPT_LOGPROB_TOKENS = 64
"""Tokens per step of a prompt whose logprobs are asked: each needs a whole row of logits."""


PROMPT_TOKENS_BESIDE = 256
PROMPT_TOKENS_PER_STREAM = 32
"""Prompt tokens of a step in which answers are running: the first, or the second for each running
answer where that is more. So a long prompt slows answers by a bounded factor, and few answers do
not make prompts slow."""


def _age(sequence: Sequence) -> tuple[int, int]:
    return (sequence.arrival, sequence.index)


class Scheduler:
    """`running` and `waiting` hold the sequences, `pool` their blocks. Without a `speculator`
    nothing is guessed."""

    def __init__(
        self, config: EngineConfig, model: ModelConfig, speculator: Speculator | None = None
    ) -> None:
        if config.token_budget < config.max_running:
            raise SettingError(
                f"token_budget ({config.token_budget}) must be at least max_running "
                f"({config.max_running}), or some answers would stand still; raise the one or "
                "lower the other"
            )
        self._config = config
        self._model = model
        self._speculator = speculator
        self._sliding_window = model.widest_window
        self.pool = BlockPool(config.num_blocks, prefix_caching=config.prefix_caching)
        self.running: list[Sequence] = []  # oldest first
        self.waiting: dict[str, list[Sequence]] = {}  # next workspace first, then oldest first
        self.num_waiting = 0
        self.num_preempted = 0
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self._refused: tuple[Sequence, int] | None = None  # and the blocks there were for it
        self._copies: list[tuple[int, int]] = []  # (from, to): blocks to copy before the next step

    @property
    def has_work(self) -> bool:
        return bool(self.running) or self.num_waiting > 0

    def blocks_to_hold(self, num_tokens: int) -> int:
        """The most blocks a sequence of `num_tokens` tokens holds at once."""
        return self._model.kv_blocks(num_tokens, self._config.token_budget)

    def add(self, sequence: Sequence) -> None:
        self.num_waiting += 1
        insort(self.waiting.setdefault(sequence.workspace, []), sequence, key=_age)

    def schedule(self) -> Batch | None:
        """Choose the next step's tokens; None when there is nothing to compute."""
        chosen: dict[Sequence, int] = {}
        for sequence in [s for s in self.running if s.num_uncomputed_tokens == 1]:
            if sequence.is_running and self._grow(sequence, 1, chosen):
                chosen[sequence] = 1
        limit = self._token_limit(len(chosen))
        self._add_drafts(chosen)
        is_admitting = True
        only_decodes = self.num_waiting == 0 and len(chosen) == len(self.running)
        for sequence in () if only_decodes else self._prefills():
            budget = limit - sum(chosen.values())
            if budget <= 0:
                break
            if not sequence.is_running:
                if self._is_prefix_under_way(sequence):
                    continue
                # Who does not fit yet must not be overtaken for ever by those who would.
                is_admitting = is_admitting and self._admit(sequence)
                if not is_admitting:
                    continue
            count = min(sequence.num_uncomputed_tokens, budget)
            if sequence.is_in_prompt:  # a sequence's tokens of one step are all of one class
                count = min(count, sequence.prompt_end - sequence.num_computed_tokens)
            if sequence.num_missing_prompt_logprobs > 0:
                count = min(count, MAX_PROMPT_LOGPROB_TOKENS)
            if self._grow(sequence, count, chosen):
                chosen[sequence] = count
                self.waiting[sequence.workspace] = self.waiting.pop(sequence.workspace)
        assert chosen or not self.has_work, "what was submitted fits, so something can run"
        return build_batch(list(chosen.items())) if chosen else None

    def update(
        self, batch: Batch, samples: list[list[Sample]]
    ) -> list[tuple[Sequence, TokenEvent]]:
        """Take in a step that ran: `samples[i]` is what `batch.due[i]` says next."""
        for sequence, said in zip(batch.due, samples, strict=True):
            self._drop_draft(sequence, num_accepted=len(said) - 1)
        for sequence, count in batch.scheduled:
            sequence.num_computed_tokens += count
            self._publish(sequence)
            self._free_behind_window(sequence)
            if sequence.siblings and sequence.num_computed_tokens >= sequence.num_prompt_tokens:
                self._release_siblings(sequence)
        return [
            (sequence, self._append(sequence, sample))
            for sequence, said in zip(batch.due, samples, strict=True)
            for sample in said
        ]

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Take a sequence out, whatever its state; its blocks are free at once."""
        if sequence.is_finished:
            return
        sequence.finish_reason = reason
        if sequence.is_running:
            sequence.is_running = False
            self.running.remove(sequence)
            self._release_blocks(sequence)
        elif sequence in self.waiting.get(sequence.workspace, ()):
            self.waiting[sequence.workspace].remove(sequence)
            self.num_waiting -= 1
        self._release_siblings(sequence)
        workspace = sequence.workspace
        if not self.waiting.get(workspace) and all(s.workspace != workspace for s in self.running):
            self.waiting.pop(workspace, None)

    def preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to wait, without its blocks."""
        self.running.remove(sequence)
        sequence.is_running = False
        self._release_blocks(sequence)
        self.add(sequence)
        self.num_preempted += 1

    def _token_limit(self, num_decodes: int) -> int:
        """The tokens of a step beside whose decodes prompts are read."""
        if num_decodes == 0:
            return self._config.token_budget
        num_prompt_tokens = max(PROMPT_TOKENS_BESIDE, PROMPT_TOKENS_PER_STREAM * num_decodes)
        return min(self._config.token_budget, num_decodes + num_prompt_tokens)

    def _add_drafts(self, chosen: dict[Sequence, int]) -> None:
        """Have guesses computed beside the decodes of `chosen`, where that pays."""
        if self._speculator is None:
            return
        # The first completion token is drawn from a prompt's row, whose arithmetic is another.
        decodes = [sequence for sequence in chosen if sequence.num_completion_tokens > 0]
        room = self._config.token_budget - len(chosen)
        for sequence, draft in self._speculator.plan(decodes, len(chosen), room).items():
            count = 1 + len(draft.token_ids)
            missing = num_blocks_for(sequence.num_computed_tokens + count) - sequence.num_blocks
            if missing > 0:
                if missing > self.pool.num_free - self._num_promised():
                    continue  # nobody gives way to a guess
                sequence.add_blocks(self.pool.allocate(missing))
            sequence.set_draft(draft.token_ids)
            chosen[sequence] = count

    def _drop_draft(self, sequence: Sequence, num_accepted: int) -> None:
        """What was computed behind a wrong guess counts as not computed; it will be overwritten."""
        self.num_draft_tokens += sequence.num_draft_tokens
        self.num_accepted_tokens += num_accepted
        sequence.num_computed_tokens -= sequence.num_draft_tokens - num_accepted
        sequence.num_draft_tokens = 0

    def _num_promised(self) -> int:
        """Blocks that running sequences still need for the tokens that they have."""
        return sum(
            max(0, self.blocks_to_hold(s.num_tokens) - s.num_live_blocks) for s in self.running
        )

    def _prefills(self) -> Iterator[Sequence]:
        """Sequences with more than one token to compute, running before waiting, oldest first;
        one of each workspace in turn, beginning with the workspace served longest ago."""
        queues: dict[str, deque[Sequence]] = {workspace: deque() for workspace in self.waiting}
        for sequence in self.running:
            if sequence.num_uncomputed_tokens > 1:
                queues[sequence.workspace].append(sequence)
        room = self._config.max_running - len(self.running)
        for workspace, waiting in self.waiting.items():
            queues[workspace].extend(waiting[:room])
        while queues:
            for workspace, queue in list(queues.items()):
                if queue:
                    yield queue.popleft()
                else:
                    del queues[workspace]

    def _is_prefix_under_way(self, sequence: Sequence) -> bool:
        """True when a running sequence is about to fill a block that this one can use.

        To wait for it takes a step or some; to start beside it takes the same work again. So of
        many new prompts that begin alike one goes first, and the others find its blocks cached.
        """
        if not self.pool.prefix_caching:
            return False
        for other in self.running:
            block = other.num_published_blocks
            start, end = block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE
            if (
                other.workspace == sequence.workspace
                and end <= min(other.num_prompt_tokens, sequence.num_reusable_tokens)
                and other.block_contents(block) == sequence.block_contents(block)
                and np.array_equal(other.token_ids[:start], sequence.token_ids[:start])
            ):
                return True
        return False

    def _admit(self, sequence: Sequence) -> bool:
        """Let a waiting sequence run, from its longest cached prefix, if all of it fits now."""
        if len(self.running) >= self._config.max_running:
            return False
        promised = self._num_promised()
        room = self.pool.num_free - promised
        if self._refused is not None and self._refused[0] is sequence and self._refused[1] >= room:
            return False  # nothing was freed since; do not walk its prefix again
        self._hold_prefix(sequence)
        if self.blocks_to_hold(sequence.num_tokens) - sequence.num_live_blocks + promised > (
            self.pool.num_free
        ):
            self._release_blocks(sequence)
            self._refused = (sequence, room)
            return False
        self._refused = None
        self._copy_part(sequence)
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = sequence.num_computed_tokens
        self.waiting[sequence.workspace].remove(sequence)
        self.num_waiting -= 1
        insort(self.running, sequence, key=_age)
        sequence.is_running = True
        return True

    def _hold_prefix(self, sequence: Sequence) -> None:
        num_blocks = sequence.num_reusable_tokens // BLOCK_SIZE
        contents = map(sequence.block_contents, range(num_blocks))
        blocks, sequence.prefix_node = self.pool.hold_prefix(sequence.workspace, contents)
        sequence.add_blocks(blocks)
        sequence.num_published_blocks = len(blocks)
        sequence.num_computed_tokens = len(blocks) * BLOCK_SIZE
        self._free_behind_window(sequence)

    def _copy_part(self, sequence: Sequence) -> None:
        """Let the first block that is not cached begin as one that is, as far as they are alike."""
        found = self.pool.latest(sequence.prefix_node)
        room = sequence.num_reusable_tokens - sequence.num_computed_tokens
        if found is None or room <= 0:
            return
        source, contents = found
        count = min(sequence.num_shared(sequence.num_blocks, contents), room)
        target = self.pool.allocate_beside(source) if count > 0 else None
        if target is not None:
            sequence.add_blocks([target])
            sequence.num_computed_tokens += count
            self._copies.append((source, target))

    def take_copies(self) -> list[tuple[int, int]]:
        """The blocks to copy, (from, to), in order, before anything of the step is computed."""
        copies, self._copies = self._copies, []
        return copies

    def _grow(self, sequence: Sequence, count: int, chosen: dict[Sequence, int]) -> bool:
        """Give a sequence the blocks for `count` more tokens, preempting the youngest if need be.

        False when the sequence itself was the youngest. Who is preempted leaves `chosen`.
        """
        missing = num_blocks_for(sequence.num_computed_tokens + count) - sequence.num_blocks
        while missing > self.pool.num_free:
            youngest = self.running[-1]
            chosen.pop(youngest, None)
            self.preempt(youngest)
            if youngest is sequence:
                return False
        if missing > 0:
            sequence.add_blocks(self.pool.allocate(missing))
        return True

    def _publish(self, sequence: Sequence) -> None:
        """Offer the blocks that this step filled to later requests of the same workspace."""
        num_full = sequence.num_computed_tokens // BLOCK_SIZE
        table = sequence.block_table
        for i in range(sequence.num_published_blocks, num_full):
            table[i], sequence.prefix_node = self.pool.publish(
                int(table[i]), sequence.prefix_node, sequence.block_contents(i)
            )
        sequence.num_published_blocks = num_full

    def _free_behind_window(self, sequence: Sequence) -> None:
        """Free the blocks that no token still to compute will attend to."""
        if self._sliding_window is None:
            return
        num_unseen = sequence.num_computed_tokens - self._sliding_window + 1
        end = num_unseen // BLOCK_SIZE
        if end > sequence.num_freed_blocks:
            dead = sequence.block_table[sequence.num_freed_blocks : end]
            self.pool.release(dead[::-1].tolist())
            dead[:] = -1
            sequence.num_freed_blocks = end

    def _release_blocks(self, sequence: Sequence) -> None:
        # Last block first, so that the pool reuses a prefix's tail before its root.
        live = sequence.block_table[sequence.num_freed_blocks :]
        self.pool.release(live[::-1].tolist())
        sequence.clear_blocks()

    def _release_siblings(self, leader: Sequence) -> None:
        """The prompt's blocks are published (or never will be): the others may start."""
        for sibling in leader.siblings:
            if not sibling.is_finished:
                self.add(sibling)
        leader.siblings = []

    def _append(self, sequence: Sequence, sample: Sample) -> TokenEvent:
        """Take one sampled token, or the error that came of sampling it."""
        token_id = sample.token_id
        if sample.error is not None:
            self.finish(sequence, "error")
            return sequence.event(error=sample.error)
        if sequence.max_completion_tokens == 0:
            self.finish(sequence, "length")
            return sequence.event(reading=sample.reading)
        if token_id in sequence.request.stop_token_ids:
            self.finish(sequence, "stop")
            return sequence.event()
        sequence.append(token_id)
        if sample.is_last:
            self.finish(sequence, "stop")
        elif sequence.num_completion_tokens >= sequence.max_completion_tokens:
            self.finish(sequence, "model_length" if sequence.ends_by_context else "length")
        return sequence.event(token_id, sample.logprob)
