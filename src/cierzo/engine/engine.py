"""The engine as callers see it: submit from any thread, computed on one of its own.

Two crossings: requests and aborts go in through the inbox, events come out through each
request's `TokenStream`, once per step or, where steps are short, per frame. Knows nothing of how
a step is computed (`core.py`).
"""

from __future__ import annotations

import atexit
import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import Condition, Thread
from time import monotonic
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cierzo.config import EngineConfig
from cierzo.engine.core import EngineCore, EngineStats, Events
from cierzo.engine.request import GenerationRequest, TokenEvent
from cierzo.engine.runner import Model
from cierzo.engine.stream import TokenStream, Wakeups, wake_consumers
from cierzo.errors import EngineStoppedError, QueueFullError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RETRY_AFTER_S = 60

FRAME_S = 1 / 30
"""Tokens of several steps within this time are handed over together, but for a request's first and
last: who reads them sees no difference, and to wake event loop, socket and client costs a small
model a tenth of its step (decision 0037)."""

IDLE_S = 1.0
"""Without work for so long, the engine makes memory ready for what will come."""

PAUSE_S = 0.001
"""Between two blocks of that, for the other threads' sake."""

STOPPED = "the engine was stopped before this request finished; send it again to a running one"


class Engine:
    """Runs one model on its own thread from construction until `close()`."""

    def __init__(self, model: Model, config: EngineConfig) -> None:
        self._core = EngineCore(model, config)
        self._max_waiting = config.max_waiting
        self._changed = Condition()  # guards all below
        self._inbox: list[Callable[[], Events]] = []
        self._streams: dict[int, TokenStream] = {}
        self._num_submitted = 0
        self._num_unqueued = 0  # requests still in the inbox
        self._is_stopping = False
        self._pace = _Pace()
        self._held: dict[int, list[TokenEvent]] = {}  # the thread's own: not handed over yet
        self._frame_began_s = monotonic()
        self._thread = Thread(target=self._run, name="cierzo-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread cut off inside a kernel would take the process down

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queue a request; its events come out of the stream.

        Raises RequestError (ContextOverflowError when it can never fit), QueueFullError,
        EngineStoppedError.
        """
        self._core.check(request)
        with self._changed:
            if self._is_stopping:
                raise EngineStoppedError("the engine is stopped and takes no new requests")
            num_waiting = self._core.scheduler.num_waiting + self._num_unqueued
            if num_waiting >= self._max_waiting:
                raise QueueFullError(
                    f"{num_waiting} requests are waiting, and the queue holds {self._max_waiting}; "
                    f"try again in {self._pace.retry_after_s} s",
                    retry_after_s=self._pace.retry_after_s,
                )
            arrival = self._num_submitted
            self._num_submitted += 1
            self._num_unqueued += 1
            stream = TokenStream(request.params.n, lambda index: self._abort(arrival, index))
            self._streams[arrival] = stream
            self._post(lambda: self._add(arrival, request))
        return stream

    def logits(
        self, token_ids: NDArray[np.int32], num_prompt_tokens: int | None = None
    ) -> NDArray[np.float32]:
        """Logits [n_tokens, vocab_size] of one sequence, computed between two steps.

        Computed as a request's are, whose prompt are the first `num_prompt_tokens` (None: all).
        """
        return self._call(lambda: self._core.runner.logits(token_ids, num_prompt_tokens))

    def stats(self) -> EngineStats:
        """The engine as of its last step, for metrics."""
        return self._core.stats()

    def is_healthy(self) -> bool:
        """True while the engine's thread computes what it is given."""
        return self._thread.is_alive() and not self._is_stopping

    def close(self) -> None:
        """Stop after the current step; what still runs ends with an error event. Idempotent."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def _run(self) -> None:
        try:
            while self._take_inbox():
                self._hold(self._guarded(self._core.step))
                self._hand_over()
        finally:
            self._end()

    def _end(self) -> None:
        """Whatever failed, this thread or the core itself: nobody waits for one that is gone."""
        with self._changed:
            self._is_stopping = True
        try:
            self._take_inbox()
            self._hold(self._fail_all(STOPPED))
            self._hand_over(at_once=True)
        finally:
            wakeups: Wakeups = {}
            for stream in self._streams.values():
                stream.fail(STOPPED, wakeups)
            wake_consumers(wakeups)

    def _guarded(self, act: Callable[[], Events]) -> Events:
        """The events of `act`; where it raises, an error for every request there is."""
        try:
            return act()
        except Exception as error:  # ours to fix, but the callers must not hang meanwhile
            logger.exception("the engine failed; every request ends with an error")
            return self._fail_all(f"the engine failed: {type(error).__name__}: {error}")

    def _fail_all(self, message: str) -> Events:
        """An error for every request there is; an engine that cannot even do that is at its end."""
        try:
            return self._core.fail_all(message)
        except Exception:  # whatever it was: _end() still tells everybody
            logger.exception("the engine failed for good; it takes no new requests")
            with self._changed:
                self._is_stopping = True
            return []

    def _take_inbox(self) -> bool:
        """Wait until there is something to compute, and let in what was asked. False at the end."""
        self._wait()
        with self._changed:  # what comes before the end is known here is still let in
            inbox, self._inbox = self._inbox, []
            is_stopping = self._is_stopping
        for act in inbox:
            self._hold(self._guarded(act))
        if inbox:  # a new prompt may make the next step a long one
            self._hand_over(at_once=True)
        return not is_stopping

    def _wait(self) -> None:
        """Return when there is something to do, and be prepared for it."""
        pause_s: float | None = IDLE_S
        while True:
            with self._changed:
                if self._changed.wait_for(self._is_wanted, pause_s):
                    return
            pause_s = PAUSE_S if self._has_made_ready() else None

    def _has_made_ready(self) -> bool:
        """False when there is nothing more to make ready, or it cannot be."""
        try:
            return self._core.make_ready()
        except Exception:  # only comfort: what is not ready is slower the first time
            logger.exception("memory could not be made ready")
            return False

    def _is_wanted(self) -> bool:
        return bool(self._inbox) or self._core.has_work or self._is_stopping

    def _add(self, arrival: int, request: GenerationRequest) -> Events:
        with self._changed:  # at no moment is a request counted neither here nor there
            self._num_unqueued -= 1
            return self._core.add(arrival, request)

    def _call(self, function: Callable[[], T]) -> T:
        """Run `function` on the engine's thread, where it may use the model.

        Returns its result or raises its exception. Raises EngineStoppedError.
        """
        future: Future[T] = Future()

        def run() -> Events:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)
            return []

        with self._changed:
            if self._is_stopping:
                raise EngineStoppedError("the engine is stopped and computes nothing any more")
            self._post(run)
        return future.result()

    def _post(self, act: Callable[[], Events]) -> None:
        with self._changed:
            self._inbox.append(act)
            self._changed.notify_all()

    def _abort(self, arrival: int, index: int | None) -> None:
        def abort() -> Events:
            self._core.abort(arrival, index)
            self._forget([arrival])
            return []

        self._post(abort)

    def _hold(self, events: Events) -> None:
        for arrival, event in events:
            self._held.setdefault(arrival, []).append(event)

    def _hand_over(self, *, at_once: bool = False) -> None:
        """Give the streams what is held for them: all of them when the frame is over, else those
        that something has come for which cannot wait."""
        now_s = monotonic()
        is_over = at_once or now_s - self._frame_began_s >= FRAME_S
        if is_over:
            self._frame_began_s = now_s
        handed: list[int] = []
        wakeups: Wakeups = {}
        for arrival, events in self._held.items():
            stream = self._streams.get(arrival)
            if stream is not None:
                if not (is_over or _is_urgent(stream, events)):
                    continue
                stream.put(events, wakeups)
            handed.append(arrival)
        for arrival in handed:
            del self._held[arrival]
        wake_consumers(wakeups)
        self._forget(handed)

    def _forget(self, arrivals: Iterable[int]) -> None:
        """Let go of the requests among `arrivals` that are over."""
        over = [arrival for arrival in arrivals if not self._core.is_live(arrival)]
        with self._changed:
            ended = [arrival for arrival in over if self._streams.pop(arrival, None) is not None]
        if ended:
            self._pace.count(len(ended))


def _is_urgent(stream: TokenStream, events: Iterable[TokenEvent]) -> bool:
    """True for a request's first token, and for the end of a sequence."""
    return not stream.has_begun or any(event.finish_reason is not None for event in events)


class _Pace:
    """How fast requests leave, to tell a refused caller when a place may be free."""

    def __init__(self) -> None:
        self._last_s = monotonic()
        self._interval_s = 1.0  # smoothed time between two requests' ends

    def count(self, num_finished: int) -> None:
        now_s = monotonic()
        interval_s = (now_s - self._last_s) / num_finished
        self._interval_s += 0.2 * (interval_s - self._interval_s)
        self._last_s = now_s

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until the next request is likely to have left, 1 … 60."""
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(self._interval_s)))
