"""The store's upstreams as served models, also while the server runs: a change on the command line
is a change here a moment later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from cierzo.errors import CierzoError, SettingError, StoreUnavailableError
from cierzo.server.served_model import ServedModel, ServedModels
from cierzo.server.upstream.offer import served_models
from cierzo.store import Database, upstreams
from cierzo.store.upstreams import Upstream

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""How late a change may be seen."""

RETIREMENT_S = 600.0
"""How long the models of an upstream that is gone or changed are kept: a request that has chosen
one may still wait for its guardrails."""


class FollowedUpstreams:
    """`key_of` gives an upstream's key; `own` are the names that models of this machine have."""

    def __init__(
        self,
        database: Database,
        key_of: Callable[[Upstream], str | None],
        own: Collection[str] = (),
    ) -> None:
        self._database = database
        self._key_of = key_of
        self._own = frozenset(own)
        self._seen: dict[str, Upstream] = {}
        self._refused: dict[str, Upstream] | None = None  # seen last, and not to be had together
        self._models: dict[str, list[ServedModel]] = {}
        self._retired: list[tuple[float, ServedModel]] = []

    def load(self) -> list[ServedModel]:
        """All models of all upstreams. Raises CierzoError for the first that cannot be offered."""
        for upstream in upstreams.list_all(self._database):
            self._seen[upstream.name] = upstream
            self._models[upstream.name] = self._made(upstream)
        return [model for models in self._models.values() for model in models]

    async def follow(self, served: ServedModels) -> None:
        """Keep `served` so, until cancelled. An upstream that cannot be offered as it is now stays
        as it was, while nobody takes its names, and the log says why."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look(served)
            except StoreUnavailableError:
                continue  # whoever needs the database says so
            except Exception:
                logger.exception("following the upstreams failed; it is tried again")

    async def _look(self, served: ServedModels) -> None:
        rows = await self._database.in_thread(upstreams.list_all, self._database)
        now = {upstream.name: upstream for upstream in rows}
        if now == self._refused:
            await self._retire(served, ())
            return
        changed = {name for name, upstream in now.items() if self._seen.get(name) != upstream}
        gone = self._seen.keys() - now.keys()
        made: dict[str, list[ServedModel]] = {name: [] for name in gone}
        for name in changed:
            try:
                made[name] = await asyncio.to_thread(self._made, now[name])
            except Exception as error:  # one of them must not hold up the others
                is_ours = isinstance(error, CierzoError)
                text = "the upstream %s is not offered as it is now: %s"
                logger.error(text, name, error, exc_info=not is_ours)
        taken = {model.id for models in made.values() for model in models}
        for name in self._models.keys() - made.keys():
            if any(model.id in taken for model in self._models[name]):  # of one that stayed
                made[name] = []
        old = [model for name in made for model in self._models.get(name, ())]
        new = [model for models in made.values() for model in models]
        try:
            served.replace(old, new)
        except SettingError as error:  # two that were added at one moment may have one name
            self._refused = now
            logger.error("the upstreams stay as they were: %s", error)
            for model in new:
                await model.close()
            return
        self._seen, self._refused = now, None
        self._models |= made
        await self._retire(served, old)

    async def _retire(self, served: ServedModels, models: Collection[ServedModel]) -> None:
        now_s = time.monotonic()
        self._retired += [(now_s + RETIREMENT_S, model) for model in models]
        over = [(end_s, model) for end_s, model in self._retired if end_s <= now_s]
        for entry in over:
            if entry[1].is_idle():
                self._retired.remove(entry)
                await served.close_retired(entry[1])

    def _made(self, upstream: Upstream) -> list[ServedModel]:
        for model in upstream.models:
            if model.name in self._own:
                raise SettingError(
                    f"a model here and one of the upstream {upstream.name} are both called"
                    f" {model.name!r}; give the upstream's another name: `cierzo upstream set"
                    f" {upstream.name} --model OTHER={model.there}`"
                )
        return list(served_models(upstream, self._key_of(upstream)))
