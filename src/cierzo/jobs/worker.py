"""Runs batch jobs: one of each workspace at a time, their lines side by side through the gate.

Every state it needs is in the store, so a start goes on where a kill fell, and so does another
server on the same store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI

from cierzo.errors import CierzoError, StoreError, StoreUnavailableError
from cierzo.ids import now_ms
from cierzo.jobs.gate import IDLE_LINES, Gate
from cierzo.jobs.line import Asked, answer_line
from cierzo.jobs.lines import Line, answered, check_lines, end_job, read_lines
from cierzo.server.auth import Caller
from cierzo.server.served_model import ServedModels
from cierzo.store import Database, api_keys, batch_jobs
from cierzo.store.batch_jobs import BatchJob, Status
from cierzo.store.files import FileStore

Outcome = tuple[Status, list[dict[str, object]]]
CutOff = dict[int, Asked]
"""The lines that are being answered; at a job's end, those that were not."""

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How late a cancellation, a deadline, a revoked key or another server's job may be seen."""


async def run_jobs(app: FastAPI) -> None:
    """Until cancelled; what is half done then is done by the next start."""
    await _Worker(app).run()


class _Worker:
    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._database: Database = app.state.database
        self._store: FileStore = app.state.files
        self._models: ServedModels = app.state.models
        self._gate = Gate(app.state.metering.traffic)
        self._running: dict[str, asyncio.Task[None]] = {}  # by workspace

    async def run(self) -> None:
        watch = asyncio.ensure_future(self._gate.watch())
        try:
            while True:
                await self._begin_jobs()
                doorbell: asyncio.Event = self._app.state.jobs_changed
                doorbell.clear()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await doorbell.wait()
                except TimeoutError:
                    continue
        finally:
            tasks = [watch, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin_jobs(self) -> None:
        self._running = {name: task for name, task in self._running.items() if not task.done()}
        try:
            jobs = await self._database.in_thread(batch_jobs.unfinished, self._database)
        except StoreUnavailableError as error:
            logger.error("batch jobs wait: %s", error)
            return
        for job in jobs:
            if job.workspace_id not in self._running:
                task = asyncio.ensure_future(self._run_one(job))
                self._running[job.workspace_id] = task

    async def _run_one(self, job: BatchJob) -> None:
        """One job to its end, unless another server runs one of this workspace's.

        What goes wrong on the way for a while is tried again by `run`.
        """
        with self._store.claim(f"batch-{job.workspace_id}") as is_ours:
            if is_ours:
                await self._run_claimed(job.id)

    async def _run_claimed(self, job_id: str) -> None:
        database, cut_off = self._database, CutOff()
        try:
            job = await self._unfinished(job_id)
            if job is None:  # another server was faster
                return
            status, errors = await self._outcome(job, cut_off)
            end = partial(end_job, database, self._store, job, status, errors)
            while await self._unfinished(job_id) and not await asyncio.to_thread(end):
                continue  # a line came meanwhile
            rows = [row for asked in cut_off.values() for row in asked.rows]
            await database.in_thread(batch_jobs.record_cut_off, database, job_id, rows)
        except StoreUnavailableError as error:
            logger.error("batch job %s waits: %s", job_id, error)
        except Exception:
            logger.exception("batch job %s failed; it is tried again", job_id)
            await asyncio.sleep(LOOK_S)

    async def _unfinished(self, job_id: str) -> BatchJob | None:
        job = await self._database.in_thread(batch_jobs.find, self._database, job_id)
        return None if job is None or job.is_finished else job

    async def _outcome(self, job: BatchJob, cut_off: CutOff) -> Outcome:
        if job.status == "CANCELLATION_REQUESTED":
            return "CANCELLED", []
        if now_ms() >= job.deadline_ms:
            return _too_late(job)
        database = self._database
        if job.status == "QUEUED":
            try:
                count = await asyncio.to_thread(check_lines, self._store, job)
            except StoreUnavailableError:
                raise
            except StoreError as error:
                return "FAILED", [{"message": str(error), "count": 1}]
            await database.in_thread(batch_jobs.start, database, job.id, count)
        work = asyncio.ensure_future(self._answer_all(job, cut_off))
        watch = asyncio.ensure_future(self._reason_to_stop(job))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return "SUCCESS", []
            return watch.result()
        except StoreUnavailableError:
            raise
        except StoreError as error:  # an input file was deleted meanwhile
            return "FAILED", [{"message": str(error), "count": 1}]
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _answer_all(self, job: BatchJob, cut_off: CutOff) -> None:
        done = await self._database.in_thread(batch_jobs.answered_lines, self._database, job.id)
        lines = read_lines(self._store, job)
        reading = asyncio.Lock()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(IDLE_LINES):
                    group.create_task(self._answer_some(job, lines, done, reading, cut_off))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _answer_some(
        self,
        job: BatchJob,
        lines: Iterator[tuple[int, Line]],
        done: set[int],
        reading: asyncio.Lock,
        cut_off: CutOff,
    ) -> None:
        database = self._database
        while True:
            async with reading:
                found = await asyncio.to_thread(next, lines, None)
            if found is None:
                return
            number, line = found
            if number in done:
                continue
            body = line.body if job.model is None else {"model": job.model, **line.body}
            asked = Asked(job.endpoint, f"{job.id}:{number}", await self._caller(job), body)
            cut_off[number] = asked
            ask = partial(answer_line, self._app, asked)
            # What an upstream computes is in nobody's way here, and giving it up would cost money.
            answer = await (ask() if self._is_elsewhere(body) else self._gate.run(ask))
            data = answered(job, number, line, answer.status, answer.body)
            is_kept = await database.in_thread(
                batch_jobs.keep_line,
                database,
                job.id,
                number,
                data,
                asked.rows,
                is_success=answer.status < 400,
            )
            if is_kept:
                del cut_off[number]

    def _is_elsewhere(self, body: Mapping[str, Any]) -> bool:
        name = body.get("model")
        model = self._models.find(name) if isinstance(name, str) else None
        is_judged_here = bool(body.get("guardrails"))
        return model is not None and model.upstream is not None and not is_judged_here

    async def _reason_to_stop(self, job: BatchJob) -> Outcome:
        """When the job must not go on, what it ends as."""
        database = self._database
        while True:
            await asyncio.sleep(LOOK_S)
            found = await database.in_thread(batch_jobs.find, database, job.id)
            if found is None or found.status == "CANCELLATION_REQUESTED":
                return "CANCELLED", []
            if now_ms() >= job.deadline_ms:
                return _too_late(job)
            try:
                await self._caller(job)
            except StoreUnavailableError:
                continue
            except CierzoError as error:
                return "FAILED", [{"message": str(error), "count": 1}]

    async def _caller(self, job: BatchJob) -> Caller:
        """Whose job it is, with the limits of now. Raises StoreError for a key that has ended."""
        if job.key_id is None:
            return Caller(job.workspace_id, None)
        database = self._database
        key = await database.in_thread(api_keys.get, database, job.key_id)
        if not key.is_live(now_ms()):
            raise StoreError("the key that made this job was revoked, or has expired")
        return Caller(job.workspace_id, key)


def _too_late(job: BatchJob) -> Outcome:
    message = f"not done within {job.timeout_hours} hours"
    return "TIMEOUT_EXCEEDED", [{"message": message, "count": 1}]
