"""A disk that is really full: a small tmpfs, in a mount namespace of its own.

    unshare --map-root-user --mount python -m tests.crash.full_disk FOLDER

Where namespaces are not allowed, root mounts it in the machine's own, and takes it away again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx

from cierzo.errors import DiskFullError
from cierzo.hub import pull
from cierzo.store import ledger
from cierzo.store.ledger import Period
from tests.crash.served import Broken, Place, Server, require, say, tiny
from tests.hub.local_hub import running_hub

DISK_NBYTES = 192 * 2**20
CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 4,
}


def run() -> None:
    """All of it, in a process that has the disk."""
    me = [sys.executable, "-m", "tests.crash.full_disk"]
    with tempfile.TemporaryDirectory(prefix="cierzo-disk-") as folder:
        alone = ["unshare", "--map-root-user", "--mount"]
        if subprocess.run([*alone, "true"], capture_output=True).returncode:
            require(os.getuid() == 0, "no namespaces here, and mounting needs root: run it as root")
            alone = []
        require(subprocess.run([*alone, *me, folder]).returncode == 0, "see above")


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir()
    size = f"size={DISK_NBYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        filler.unlink()


def main(folder: Path) -> None:
    with small_disk(folder) as disk:
        uploads(disk, tiny(folder))
        ledger_and_jobs(disk, tiny(folder))
        packing(disk, folder)
        pulling(disk)


def uploads(disk: Path, model: Path) -> None:
    """An upload ends before the disk does, and takes nothing with it."""
    place = Place(model, disk / "data")
    with place.served() as server, httpx.Client(base_url=server.url, timeout=120) as client:
        kept = client.post("/v1/files", files={"file": ("a.bin", bytes(10**6))})
        require(kept.status_code == 200, kept.text)
        refused = client.post("/v1/files", files={"file": ("b.bin", bytes(DISK_NBYTES))})
        require(refused.status_code == 507, f"{refused.status_code} {refused.text}")
        with filled(disk):
            refused = client.post("/v1/files", files={"file": ("c.bin", b"x")})
            require(refused.status_code == 507, f"{refused.status_code} {refused.text}")
            read = client.get(f"/v1/files/{kept.json()['id']}/content")
            require(read.content == bytes(10**6), "what was there cannot be read")
        require(client.get("/v1/files").json()["total"] == 1, "a refused file is listed")
        left = [path.name for path in (disk / "data" / "files-in-transit").iterdir()]
        require(not left, f"left in transit: {left}")
        require(client.post(CHAT, json=ASKED).status_code == 200, "it does not go on")
    say("  uploads: refused with 507, nothing left, the rest served")


def ledger_and_jobs(disk: Path, model: Path) -> None:
    """SQLite without a page to write: nothing is told that is not kept; then it goes on."""
    place = Place(model, disk / "jobs")
    lines = [{"custom_id": f"c{n}", "body": {**ASKED, "max_tokens": 8}} for n in range(300)]
    with place.served() as server, httpx.Client(base_url=server.url, timeout=120) as client:
        asked = {"endpoint": CHAT, "requests": lines}
        job = client.post("/v1/batch/jobs", json=asked).json()["id"]
        _wait(lambda: _job(client, job)["completed_requests"] > 20)
        answered = 0
        with filled(disk):
            with ThreadPoolExecutor(20) as threads:
                asked_at_once = [threads.submit(client.post, CHAT, json=ASKED) for _ in range(20)]
            statuses = [asking.result().status_code for asking in asked_at_once]
            # Pages that the database has may still be written: then an answer is one.
            require(set(statuses) <= {200, 503}, f"{statuses}")
            require(503 in statuses, f"{statuses}: the disk is not full")
            answered += statuses.count(200)
            time.sleep(3)  # the job meets the full disk, too
            require(client.get("/health").status_code == 200, "it is not well")
        _wait(lambda: _job(client, job)["status"] not in ("QUEUED", "RUNNING"))
        over = _job(client, job, inline="true")
        require(over["status"] == "SUCCESS" and over["succeeded_requests"] == 300, f"{over}")
        require(client.post(CHAT, json=ASKED).status_code == 200, "it does not go on")
        answered += 1
        _check_ledger(server, place, answered, len(statuses) + 1)
    say(
        f"  SQLite and a job: {statuses.count(503)} of 20 refused with 503, then all 300 lines once"
    )


def _check_ledger(server: Server, place: Place, answered: int, asked: int) -> None:
    server.kill()
    with place.database() as database:
        lines = ledger.total(database, Period(is_batch=True)).requests
        rows = ledger.total(database, Period(is_batch=False)).requests
        sound = database.read(
            lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar()
        )
    require(lines == 300, f"{lines} rows of 300 lines")
    require(answered <= rows <= asked, f"{rows} rows for {answered} answers of {asked}")
    require(sound == "ok", f"{sound}")


def packing(disk: Path, folder: Path) -> None:
    """No half a model, and a message that says what to do."""
    model, out = tiny(folder), disk / "packed"
    command = [sys.executable, "-m", "cierzo", "quantize", str(model), str(out)]
    with filled(disk):
        result = subprocess.run(command, capture_output=True, text=True)
        require(result.returncode == 1, f"{result.returncode}: {result.stderr}")
        require("room" in result.stderr or "free" in result.stderr, result.stderr)
        require("Traceback" not in result.stderr, result.stderr)
    left = [path.name for path in disk.iterdir() if "packed" in path.name]
    require(not left, f"left: {left}")
    result = subprocess.run(command, capture_output=True, text=True)
    require(result.returncode == 0, result.stderr)
    say("  packing: refused, nothing left, done once there was room")


def pulling(disk: Path) -> None:
    """What has come stays, and the rest comes once there is room."""
    weights = os.urandom(40 * 2**20)
    name = "hf:owner/tiny:tiny.Q4_0.gguf"
    with running_hub() as hub:
        hub.repos["owner/tiny"] = {"tiny.Q4_0.gguf": weights}
        with filled(disk):
            (disk / "filler").open("r+b").truncate(_size(disk / "filler") - 8 * 2**20)
            try:
                pull(name, home=disk / "home", endpoint=hub.url)
            except DiskFullError as error:
                require("free some space" in str(error), str(error))
            else:
                raise Broken("40 MiB came onto a disk that has 8")
        model = pull(name, home=disk / "home", endpoint=hub.url)
        require(model.path.read_bytes() == weights, "another file")
    say("  pulling: refused, then whole")


def _size(path: Path) -> int:
    return path.stat().st_size


def _job(client: httpx.Client, job_id: str, **query: str) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/batch/jobs/{job_id}", params=query).json()
    return job


def _wait(holds: Any) -> None:
    deadline_s = time.monotonic() + 120
    while not holds():
        require(time.monotonic() < deadline_s, "it does not come to its end")
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (Broken, OSError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else error
        print(f"  broken: {reason}", file=sys.stderr)
        raise
