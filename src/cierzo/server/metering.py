"""From a request's admission to its row in the ledger, which is there before the answer ends.

Every way to an engine or an upstream leads through `Metered`, so that no computation goes
uncounted and each is done under its workspace's name. Rows are written exactly once: an answer's
last bytes wait for its row, and whatever ends otherwise gets its row when the request is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from starlette.requests import Request

from cierzo.engine.request import GenerationRequest
from cierzo.errors import (
    QueueFullError,
    RequestError,
    StoreUnavailableError,
    UpstreamAwayError,
)
from cierzo.ids import now_ms
from cierzo.server.auth import Caller
from cierzo.server.completion import Usage
from cierzo.server.limiter import Limiter, Subject, limit_headers
from cierzo.server.served_model import ServedModel, ServedModels
from cierzo.server.text_model import Engine, TokenStream
from cierzo.store import Database, ledger, pricing
from cierzo.store.db import PATIENCE_S
from cierzo.store.ledger import Status, UsageRecord
from cierzo.store.ledger_writer import LedgerWriter
from cierzo.store.pricing import DatedPrice, Price, price_at

PRICES_MEMORY_S = 5.0
"""How long the price table is taken for true: the most that a new price is late."""

QUERY_COST_HEADER = "x-ratelimit-tokens-query-cost"

REFUSALS = (RequestError, QueueFullError, UpstreamAwayError)
"""What an upstream's answer becomes when it has computed nothing."""


class Metering:
    """What all requests of a server share: prices, limits, the ledger's writer."""

    def __init__(
        self, database: Database, models: ServedModels, max_open: int | None = None
    ) -> None:
        self.limiter = Limiter(database, max_open)
        self.traffic = Traffic()
        self.ledger = LedgerWriter(database)
        self._database = database
        self._models = models
        self._prices: list[DatedPrice] = []
        self._prices_s = float("-inf")

    async def open(
        self,
        caller: Caller,
        model_name: str,
        request_id: str,
        endpoint: str,
        *,
        batch_rows: list[UsageRecord] | None = None,
        answered_by: ServedModel | None = None,
    ) -> Metered:
        """A request of the caller's to that model; not let in yet (`enter`).

        `request_id` is the key of its row: the same twice leaves one row. In `batch_rows` the rows
        of a batch job's line are laid, for whoever keeps the line. With `answered_by` the
        name is a classifier's, which that model answers: it is allowed and entered under its own
        name, at its own price or else the model's. Raises ForbiddenError, ModelNotFoundError,
        StoreUnavailableError.
        """
        if answered_by is not None:
            model, name = answered_by, model_name
            caller.check_model(name)
        else:
            found = self._models.find(model_name)
            caller.check_model(model_name if found is None else found.id)
            model = self._models.get(model_name)
            name = model.id
        table = await self._price_table()
        has_own_price = any(row.model == name for row in table)
        price = price_at(table, name if has_own_price else model.id, now_ms())
        subjects = await self.limiter.subjects(caller)
        return Metered(self, caller, name, model, price, subjects, request_id, endpoint, batch_rows)

    async def close(self) -> None:
        """Write what is still to be written."""
        await asyncio.to_thread(self.ledger.close)

    async def _price_table(self) -> list[DatedPrice]:
        now_s = time.monotonic()
        if now_s >= self._prices_s + PRICES_MEMORY_S:
            database = self._database
            self._prices = await database.in_thread(pricing.list_prices, database)
            self._prices_s = now_s
        return self._prices


class Traffic:
    """How many requests that somebody waits for are being answered; `changed` when that does."""

    def __init__(self) -> None:
        self.num_open = 0
        self.last_end_s = float("-inf")
        self.changed = asyncio.Event()

    def add(self, change: int) -> None:
        self.num_open += change
        self.last_end_s = time.monotonic()
        self.changed.set()


class Metered:
    """One request. `enter`, `begin`, `submit` or `start` …, `settle`; and `close`, however it
    ends."""

    def __init__(
        self,
        metering: Metering,
        caller: Caller,
        name: str,
        model: ServedModel,
        price: Price,
        subjects: tuple[Subject, ...],
        request_id: str,
        endpoint: str,
        batch_rows: list[UsageRecord] | None,
    ) -> None:
        self.caller = caller
        self.model = model
        self.request_id = request_id
        self.name = name
        self._metering = metering
        self._price = price
        self._subjects = subjects
        self._endpoint = endpoint
        self._is_batch = batch_rows is not None
        self._batch_rows = batch_rows
        self._holds_back_batches = not self._is_batch and model.upstream is None
        self._is_inside = False
        self._has_failed = False
        self._usage: Usage | None = None
        self._num_counted = 0
        self._has_computed = False
        self._record: UsageRecord | None = None

    def enter(self) -> None:
        """Be counted among the running. Raises BudgetError, RateLimitError."""
        self._metering.limiter.enter(self._subjects, is_batch=self._is_batch)
        self._is_inside = True
        if self._holds_back_batches:
            self._metering.traffic.add(1)

    def begin(self, usage: Usage, num_prompt_tokens: int) -> None:
        """Count the prompts, as far as they are known; `usage` is what the row will say. Raises
        RateLimitError."""
        for subject in () if self._is_batch else self._subjects:
            subject.check_tokens(num_prompt_tokens)
        for subject in self._subjects:
            subject.tokens.add(time.monotonic(), num_prompt_tokens)
        self._num_counted = num_prompt_tokens
        self._usage = usage

    def submit(self, engine: Engine, request: GenerationRequest) -> TokenStream:
        """Hand a request to the engine: from here on there will be a row. Raises EngineError."""
        assert request.workspace == self.caller.workspace_id, "else prefixes would be shared"
        stream = engine.submit(request)
        self.start()
        return stream

    def start(self) -> None:
        """It is about to cost something: from here on there will be a row."""
        assert self._usage is not None, "begin() counts a request before it costs anything"
        self._has_computed = True

    @contextmanager
    def unless_refused(self, has_begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """No row after all where within this an upstream refuses, or is not there; unless
        something of the answer has come before."""
        try:
            yield
        except REFUSALS:
            self._has_computed = has_begun()
            raise

    async def settle(self) -> None:
        """Return when the row is on the disk; call it before the answer's last bytes.

        A batch line's is written with the line. Raises StoreUnavailableError when the database
        stays away; the row is then written when it is back.
        """
        row = self._write("ok")
        if row is None:
            return
        written = asyncio.wrap_future(row)
        written.add_done_callback(_is_told_by_its_writer)
        try:
            await asyncio.wait_for(asyncio.shield(written), PATIENCE_S)
        except TimeoutError:
            raise StoreUnavailableError(
                "the answer is ready, but the database that would record it is away; try again"
            ) from None
        self._leave()  # who has read the answer to its end may ask again at once

    def _write(self, status: Status) -> Future[None] | None:
        """Hand the row on, once: to the ledger, or of a batch line to its keeper."""
        record = self._record = self._make_record(status)
        uncounted = max(0, record.prompt_tokens - self._num_counted)  # what an upstream counted
        for subject in self._subjects:
            subject.tokens.add(time.monotonic(), uncounted + record.completion_tokens)
            subject.month_tokens += record.prompt_tokens + record.completion_tokens
            subject.month_micros += record.price_micros
        if self._batch_rows is None:
            return self._metering.ledger.put(record)
        self._batch_rows.append(record)
        return None

    def _make_record(self, status: Status) -> UsageRecord:
        usage = self._usage
        assert usage is not None and self._record is None
        counts = usage.num_prompt_tokens, usage.num_cached_tokens, usage.num_completion_tokens
        price_micros = self._price.cost_micros(*counts, is_batch=self._is_batch)
        is_charged = ledger.is_charged(status, counts[2], is_batch=self._is_batch)
        return UsageRecord(
            request_id=self.request_id,
            created_at_ms=now_ms(),
            workspace_id=self.caller.workspace_id,
            key_id=self.caller.key.id if self.caller.key is not None else None,
            model=self.name,
            endpoint=self._endpoint,
            status=status,
            is_batch=self._is_batch,
            prompt_tokens=counts[0],
            cached_tokens=counts[1],
            completion_tokens=counts[2],
            duration_ms=round(1000 * (time.monotonic() - usage.started_s)),
            price_micros=price_micros if is_charged else 0,
            upstream=self.model.upstream,
            usage_known=usage.is_known,
        )

    @property
    def has_computed(self) -> bool:
        return self._has_computed

    @property
    def usage(self) -> Usage | None:
        """What is being counted, once it has begun."""
        return self._usage

    @property
    def record(self) -> UsageRecord | None:
        """The row, once there is one."""
        return self._record

    def fail(self) -> None:
        """It is our fault if this request ends without an answer."""
        self._has_failed = True

    def close(self) -> None:
        """Make room for another; write the row of what ended without an answer. Idempotent."""
        self._leave()
        if self._has_computed and self._record is None:
            self._write("failed" if self._has_failed else "aborted")

    def _leave(self) -> None:
        """Make room for another. Idempotent."""
        if not self._is_inside:
            return
        self._is_inside = False
        for subject in self._subjects:
            subject.num_open -= 1
        if self._holds_back_batches:
            self._metering.traffic.add(-1)

    def headers(self) -> Iterator[tuple[str, str]]:
        """What an answer says of limits; of its own cost once that is known."""
        yield from limit_headers(self._subjects)
        if self._record is not None:
            total = self._record.prompt_tokens + self._record.completion_tokens
            yield QUERY_COST_HEADER, str(total)


def _is_told_by_its_writer(written: asyncio.Future[None]) -> None:
    """A row that came to nothing after its request had given up is in the log already."""
    if not written.cancelled():
        written.exception()


async def admit(
    request: Request, model_name: str, answered_by: ServedModel | None = None
) -> Metered:
    """Let a request in, for the model it names (see `open`); closed when the response is over.

    Raises ForbiddenError, ModelNotFoundError, BudgetError, RateLimitError,
    StoreUnavailableError.
    """
    metering: Metering = request.app.state.metering
    metered = await metering.open(
        request.state.caller,
        model_name,
        request.state.request_id,
        request.scope["route"].path,
        batch_rows=getattr(request.state, "batch_rows", None),
        answered_by=answered_by,
    )
    request.state.metered = metered
    metered.enter()
    return metered
