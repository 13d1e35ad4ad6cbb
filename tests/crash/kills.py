"""Killed in the middle of everything, or left by its database; then all must agree."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx2 as httpx

from tests.crash.served import Place, require, say
from tests.crash.traffic import Traffic, check_agreement, finish_jobs
from tests.store.postgres import Postgres

NUM_KILLS = 4
BEFORE_KILL_S = 5.0


def killed(place: Place) -> None:
    """`kill -9` under two hundred clients, several times; then files, jobs and ledger agree."""
    traffic = Traffic(seed=0)
    for number in range(NUM_KILLS):
        with place.served() as server:
            asyncio.run(traffic.run(server.url, BEFORE_KILL_S + number, server.kill))
    with place.served() as server:
        jobs = finish_jobs(server.url)
    with place.database() as database:
        say(f"  killed {NUM_KILLS} times: {check_agreement(database, place.data, traffic, jobs)}")
    say(f"  {dict(traffic.counts)}")


def left_by_its_database(place: Place, postgres: Postgres) -> None:
    """PostgreSQL stopped at once, twice, and started again under traffic. Who asks meanwhile is
    answered or told to come back, never with a 500; and the server goes on by itself."""
    traffic = Traffic(seed=1, may_refuse=frozenset((408, 429, 503)))
    with place.served() as server:

        def stop_and_start() -> None:
            for away_s in (1.0, 6.0):
                time.sleep(4)
                postgres.stop()
                time.sleep(away_s)
                postgres.start()

        outage = threading.Thread(target=stop_and_start)
        outage.start()
        asyncio.run(traffic.run(server.url, 25, lambda: None))
        outage.join()
        require(httpx.get(server.url + "/v1/files").status_code == 200, "it does not come back")
        jobs = finish_jobs(server.url)
        last = {"model": "tiny", "input": "x"}
        again = httpx.post(server.url + "/v1/embeddings", json=last, timeout=60)
        require(again.status_code == 200, again.text)
        traffic.num_sent += 1
    # Rows that waited are written by now, and uploads whose row was in doubt are swept at a start.
    with place.served(), place.database() as database:
        say(f"  away twice: {check_agreement(database, place.data, traffic, jobs)}")
    say(f"  {dict(traffic.counts)}")
