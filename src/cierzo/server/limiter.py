"""How much a key, its workspace and its organisation may use: in a minute, in a month, at once.

Minutes are counted in this process, sliding, by a clock that does not jump; months are the
ledger's, in UTC. Who is let in is not stopped later, so a budget may be passed by what is
running when it runs out.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from cierzo.errors import BudgetError, RateLimitError
from cierzo.ids import now_ms
from cierzo.money import dollars
from cierzo.server.auth import Caller
from cierzo.store import Database, ledger
from cierzo.store.ledger import Period
from cierzo.store.limits import Limits

MINUTE_S = 60.0
MONTH_MEMORY_S = 5.0
"""How long the ledger's sum is taken for true, apart from what this process adds."""

WARN_SHARE = 0.8
"""Of a budget: from here on the answers carry a warning."""

CROWDED_RETRY_S = 1

LIMITED = ("req-minute", "tokens-minute", "tokens-month")
LIMIT_HEADERS = tuple(
    f"x-ratelimit-{kind}-{name}" for name in LIMITED for kind in ("limit", "remaining")
)
BUDGET_WARNING_HEADER = "x-cierzo-budget-warning"


class Window:
    """Amounts of the last minute."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, now_s: float, amount: int) -> None:
        self._entries.append((now_s, amount))
        self._sum += amount

    def used(self, now_s: float) -> int:
        while self._entries and self._entries[0][0] <= now_s - MINUTE_S:
            self._sum -= self._entries.popleft()[1]
        return self._sum

    def wait_s(self, now_s: float, amount: int, limit: int) -> int | None:
        """Whole seconds until `amount` more fits, 0 for now, None for never."""
        if amount > limit:
            return None
        excess = self.used(now_s) + amount - limit
        wait_s = 0.0
        for added_s, added in self._entries:
            if excess <= 0:
                break
            excess -= added
            wait_s = added_s + MINUTE_S - now_s
        return math.ceil(wait_s)


class Subject:
    """A key, a workspace or an organisation, and what it has used.

    `limits` are those of its last request.
    """

    def __init__(self, name: str, period: Period) -> None:
        self.name = name
        self.limits = Limits()
        self.requests = Window()
        self.tokens = Window()
        self.num_open = 0
        self.month_tokens = 0
        self.month_micros = 0
        self._period = period
        self._month_s = float("-inf")  # when it was read

    async def read_month(self, database: Database) -> None:
        """Bring this month's use up to date, where a limit asks for it."""
        limits = self.limits
        if limits.budget_micros_month is None and limits.tokens_per_month is None:
            return
        now_s = time.monotonic()
        if now_s < self._month_s + MONTH_MEMORY_S:
            return
        period = replace(self._period, since_ms=month_start_ms())
        found = await database.in_thread(ledger.total, database, period)
        self._month_s, self.month_micros = now_s, found.price_micros
        self.month_tokens = found.total_tokens

    def check(self, *, is_batch: bool) -> None:
        """Raises BudgetError, RateLimitError when there is no room for one more request."""
        limits = self.limits
        budget = limits.budget_micros_month
        if budget is not None and self.month_micros >= budget:
            raise BudgetError(
                f"the budget of {self.name} is spent: ${dollars(self.month_micros)} of"
                f" ${dollars(budget)} this month; it begins anew on the first (UTC), or its"
                " owner raises it"
            )
        monthly = limits.tokens_per_month
        if monthly is not None and self.month_tokens >= monthly:
            raise RateLimitError(
                f"Rate limit exceeded: {self.name} has used its {monthly} tokens of this month",
                retry_after_s=(month_start_ms(1) - now_ms()) // 1000 + 1,
            )
        if is_batch:  # whose pace is the engine's spare time, not a caller's
            return
        if limits.max_concurrent is not None and self.num_open >= limits.max_concurrent:
            raise RateLimitError(
                f"Rate limit exceeded: {self.name} may have {limits.max_concurrent} requests at"
                " once",
                retry_after_s=CROWDED_RETRY_S,
            )
        self._check_minute(self.requests, 1, limits.requests_per_minute, "requests")
        self._check_minute(self.tokens, 1, limits.tokens_per_minute, "tokens")

    def check_tokens(self, amount: int) -> None:
        """Raises RateLimitError when `amount` more tokens are too many for this minute."""
        self._check_minute(self.tokens, amount, self.limits.tokens_per_minute, "tokens")

    def _check_minute(self, window: Window, amount: int, limit: int | None, what: str) -> None:
        if limit is None:
            return
        wait_s = window.wait_s(time.monotonic(), amount, limit)
        if wait_s is None:
            raise RateLimitError(
                f"Rate limit exceeded: {amount} {what} are over the {limit} that {self.name} may"
                " use in a minute",
                retry_after_s=None,
            )
        if wait_s:
            raise RateLimitError(
                f"Rate limit exceeded: {self.name} may use {limit} {what} per minute; try again in"
                f" {wait_s} s",
                retry_after_s=wait_s,
            )


class Limiter:
    """The subjects of one server, and the places that one workspace may take.

    `max_open` is the most requests of one workspace at once, whatever its own limits, so that a
    flood leaves room in the queue for the others; None where all is one workspace's.
    """

    def __init__(self, database: Database, max_open: int | None = None) -> None:
        self._database = database
        self._max_open = max_open
        self._subjects: dict[Period, Subject] = {}  # by whose it is, of all time

    async def subjects(self, caller: Caller) -> tuple[Subject, ...]:
        """Whose limits hold for a caller: key, workspace, organisation; none without keys."""
        key = caller.key
        if key is None:
            return ()
        subjects = (
            self._subject(Period(key_id=key.id), f"the key {key.name!r}", key.limits),
            self._subject(
                Period(workspace_id=key.workspace_id),
                f"the workspace {key.workspace!r}",
                key.workspace_limits,
            ),
            self._subject(
                Period(organisation_id=key.organisation_id),
                f"the organisation {key.organisation!r}",
                key.organisation_limits,
            ),
        )
        for subject in subjects:
            await subject.read_month(self._database)
        return subjects

    def enter(self, subjects: tuple[Subject, ...], *, is_batch: bool) -> None:
        """Count one more request of theirs. Raises BudgetError, RateLimitError."""
        for subject in subjects:
            subject.check(is_batch=is_batch)
        if subjects and not is_batch:
            self._check_places(subjects[1])
        for subject in subjects:
            subject.num_open += 1
            if not is_batch:
                subject.requests.add(time.monotonic(), 1)

    def _check_places(self, workspace: Subject) -> None:
        if self._max_open is not None and workspace.num_open >= self._max_open:
            raise RateLimitError(
                f"Rate limit exceeded: {workspace.name} has {self._max_open} requests here"
                " already, and the other places are for others",
                retry_after_s=CROWDED_RETRY_S,
            )

    def _subject(self, period: Period, name: str, limits: Limits) -> Subject:
        subject = self._subjects.get(period)
        if subject is None:
            subject = self._subjects[period] = Subject(name, period)
        subject.limits = limits
        return subject


def limit_headers(subjects: tuple[Subject, ...]) -> Iterator[tuple[str, str]]:
    """The documented headers, each of the subject that has least left; none without a limit."""
    now_s = time.monotonic()
    for name in LIMITED:
        left = []
        for subject in subjects:
            limits = subject.limits
            limit, used = {
                "req-minute": (limits.requests_per_minute, subject.requests.used(now_s)),
                "tokens-minute": (limits.tokens_per_minute, subject.tokens.used(now_s)),
                "tokens-month": (limits.tokens_per_month, subject.month_tokens),
            }[name]
            if limit is not None:
                left.append((max(0, limit - used), limit))
        if left:
            remaining, limit = min(left)
            yield f"x-ratelimit-limit-{name}", str(limit)
            yield f"x-ratelimit-remaining-{name}", str(remaining)
    for subject in subjects:
        budget = subject.limits.budget_micros_month
        if budget is not None and subject.month_micros >= WARN_SHARE * budget:
            share = 100 * subject.month_micros // max(1, budget)
            yield BUDGET_WARNING_HEADER, f"{share} % of the month's ${dollars(budget)}"
            return


def month_start_ms(months_ahead: int = 0) -> int:
    """When this month began in UTC, or a later one will, as unix milliseconds."""
    now = datetime.now(UTC)
    years, month = divmod(now.month - 1 + months_ahead, 12)
    start = datetime(now.year + years, month + 1, 1, tzinfo=UTC)
    return int(start.timestamp()) * 1000
