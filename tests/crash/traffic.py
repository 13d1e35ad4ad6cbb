"""Two hundred clients of every endpoint, who remember what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any

import httpx2 as httpx

from cierzo.store import Database, ledger
from cierzo.store.files import FileStore
from cierzo.store.ledger import Period
from tests.crash.served import Broken, require

CHAT = "/v1/chat/completions"
NUM_CLIENTS = 200
NUM_LINES = 25
MODEL = "tiny"


class Traffic:
    """`told` of it: answers by request id, files and their digests, jobs. `may_refuse` are the
    statuses, beside 200, that are an answer to a sound request; 408 is one where the machine stood
    still for as long as a body may pause."""

    def __init__(self, seed: int, may_refuse: frozenset[int] = frozenset((408, 429))) -> None:
        self._chooser = random.Random(seed)
        self._may_refuse = may_refuse
        self.usages: dict[str, dict[str, int]] = {}
        self.files: dict[str, str] = {}
        self.leaving: set[str] = set()
        self.gone: set[str] = set()
        self.jobs: set[str] = set()
        self.num_sent = 0
        self.counts: Counter[str] = Counter()

    async def run(self, url: str, seconds: float, end: Callable[[], None]) -> None:
        """All clients at it for some seconds; then `end`, in the middle of it all."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            clients = [asyncio.ensure_future(self._behave(client)) for _ in range(NUM_CLIENTS)]
            await asyncio.sleep(seconds)
            end()
            await asyncio.sleep(0.2)
            for one in clients:
                one.cancel()
            ends = await asyncio.gather(*clients, return_exceptions=True)
        for found in ends:
            if isinstance(found, Broken):
                raise found

    async def _behave(self, client: httpx.AsyncClient) -> None:
        acts: tuple[Callable[[httpx.AsyncClient], Awaitable[None]], ...] = (
            *(self._chat, self._chat, self._stream, self._embed, self._moderate),
            *(self._upload, self._upload, self._delete, self._batch, self._look),
        )
        while True:
            with suppress(httpx.TransportError):  # the server is gone, or going
                await self._chooser.choice(acts)(client)

    async def _post(self, client: httpx.AsyncClient, path: str, **fields: Any) -> Any:
        self.num_sent += 1
        answer = await client.post(path, json={"model": MODEL, **fields})
        if not self._is_answer(answer):
            return None
        body = answer.json()
        if "usage" in body:
            self.usages[answer.headers["x-request-id"]] = body["usage"]
        return body

    def _is_answer(self, answer: httpx.Response) -> bool:
        self.counts[str(answer.status_code)] += 1
        if answer.status_code in self._may_refuse:
            return False
        require(answer.status_code == 200, f"{answer.status_code}: {answer.text[:300]}")
        return True

    def _messages(self) -> list[dict[str, str]]:
        content = " ".join(f"word{self._chooser.randrange(9)}" for _ in range(12))
        return [{"role": "user", "content": content}]

    async def _chat(self, client: httpx.AsyncClient) -> None:
        await self._post(client, CHAT, messages=self._messages(), max_tokens=8)

    async def _stream(self, client: httpx.AsyncClient) -> None:
        self.num_sent += 1
        body = {"model": MODEL, "messages": self._messages(), "max_tokens": 20, "stream": True}
        async with client.stream("POST", CHAT, json=body) as answer:
            data = await answer.aread()
            if self._is_answer(answer) and data.endswith(b"data: [DONE]\n\n"):
                usage = json.loads(data.split(b"data: ")[-2])["usage"]
                self.usages[answer.headers["x-request-id"]] = usage

    async def _embed(self, client: httpx.AsyncClient) -> None:
        await self._post(client, "/v1/embeddings", input=["the north wind", "a sea of sand"])

    async def _moderate(self, client: httpx.AsyncClient) -> None:
        name = "mistral-moderation-2411"
        await self._post(client, "/v1/moderations", model=name, input="A quiet day.")

    async def _upload(self, client: httpx.AsyncClient) -> None:
        data = self._chooser.randbytes(self._chooser.randrange(1, 300_000))
        answer = await client.post("/v1/files", files={"file": ("a.bin", data)})
        if self._is_answer(answer):
            self.files[answer.json()["id"]] = sha256(data).hexdigest()

    async def _delete(self, client: httpx.AsyncClient) -> None:
        there = [one for one in self.files if one not in self.leaving]
        if len(there) < 20:
            return
        chosen = self._chooser.choice(there)
        self.leaving.add(chosen)
        answer = await client.delete(f"/v1/files/{chosen}")
        if answer.status_code == 404 or self._is_answer(answer):
            self.gone.add(chosen)

    async def _batch(self, client: httpx.AsyncClient) -> None:
        if len(self.jobs) >= 12:
            return
        lines = [
            {"custom_id": f"c{n}", "body": {"messages": self._messages(), "max_tokens": 4}}
            for n in range(NUM_LINES)
        ]
        job = await self._post(client, "/v1/batch/jobs", endpoint=CHAT, requests=lines)
        if job is not None:
            self.jobs.add(job["id"])

    async def _look(self, client: httpx.AsyncClient) -> None:
        for path in ("/health", "/v1/files", "/v1/batch/jobs"):
            self._is_answer(await client.get(path))


def finish_jobs(url: str) -> dict[str, dict[str, Any]]:
    """Every job there is, once it is over, with its outputs."""
    found = {}
    with httpx.Client(base_url=url, timeout=120) as client:
        jobs = client.get("/v1/batch/jobs?page_size=1000").json()["data"]
        for job_id in (job["id"] for job in jobs):
            job = {"status": "RUNNING"}
            while job["status"] in ("QUEUED", "RUNNING"):
                time.sleep(0.2)
                job = client.get(f"/v1/batch/jobs/{job_id}?inline=true").json()
            found[job_id] = job
    return found


def check_agreement(
    database: Database, data: Any, traffic: Traffic, jobs: dict[str, dict[str, Any]]
) -> str:
    """Files, jobs and ledger against what the clients were told. Raises Broken; says the sums."""
    store = FileStore(database, data)
    for file_id, digest in traffic.files.items():
        record = store.find(file_id)
        if file_id in traffic.gone:
            require(record is None, f"{file_id} was deleted, and is there")
        elif file_id not in traffic.leaving:
            require(record is not None, f"{file_id} was kept, and is gone")
        if record is not None:
            with store.open(record) as file:
                require(sha256(file.read()).hexdigest() == digest, f"{file_id} is another")
    on_disk = {path.name for path in store.folder.iterdir()}
    for file_id in on_disk:
        require(store.find(file_id) is not None, f"the bytes of {file_id} have no row")
    require(not list(store.transit.iterdir()), "something is left in transit")
    for request_id, usage in traffic.usages.items():
        row = ledger.find(database, request_id)
        require(row is not None, f"the answer {request_id} has no row")
        assert row is not None
        told = usage["prompt_tokens"], usage["completion_tokens"]
        require((row.prompt_tokens, row.completion_tokens) == told, f"{request_id}: {row}, {usage}")
    total = ledger.total(database, Period(is_batch=False)).requests
    require(len(traffic.usages) <= total <= traffic.num_sent, f"{total} rows")
    num_lines = 0
    require(traffic.jobs <= jobs.keys(), "a job that was told of is gone")
    for job_id, job in jobs.items():
        require(job["status"] == "SUCCESS", f"job {job_id}: {job['status']} {job['errors']}")
        ids = [line["custom_id"] for line in job["outputs"]]
        require(sorted(ids) == sorted(f"c{n}" for n in range(NUM_LINES)), f"lines {ids}")
        for line in job["outputs"]:
            number = int(line["custom_id"][1:])
            require(line["error"] is None, f"line {number} of {job_id}: {line}")
            row = ledger.find(database, f"{job_id}:{number}")
            usage = line["response"]["body"]["usage"]
            require(row is not None and row.is_batch, f"line {number} of {job_id} has no row")
            assert row is not None
            require(row.completion_tokens == usage["completion_tokens"], f"{job_id}:{number}")
        num_lines += len(ids)
    batch = ledger.total(database, Period(is_batch=True)).requests
    require(batch == num_lines, f"{batch} rows for {num_lines} lines")
    return (
        f"{len(traffic.usages)} answers of {traffic.num_sent} asked, {total} rows; "
        f"{len(traffic.files)} uploads told, {len(traffic.gone)} deletions, {len(on_disk)} files; "
        f"{len(jobs)} jobs, {num_lines} lines, {batch} rows"
    )
