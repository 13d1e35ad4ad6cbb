"""As large as the API allows, in flat memory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx2 as httpx

from tests.crash.served import Peak, Place, require, say

FILE_NBYTES = 512 * 2**20
NUM_LINES = 100_000
MAX_GROWTH = 96 * 2**20
"""What a server may need beside what it had when it was asked: buffers, not the whole."""


def upload_of_512_mib(place: Place) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'

    def form() -> Iterator[bytes]:
        yield head
        for number in range(FILE_NBYTES // 2**20):
            yield number.to_bytes(4, "big") * 2**18
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    with place.served() as server, httpx.Client(base_url=server.url, timeout=600) as client:
        with Peak(server) as peak:
            started_s = time.monotonic()
            made = client.post("/v1/files", content=form(), headers=headers)
            require(made.status_code == 200, made.text)
            up_s = time.monotonic() - started_s
            came = 0
            with client.stream("GET", f"/v1/files/{made.json()['id']}/content") as answer:
                for piece in answer.iter_bytes():
                    came += len(piece)
            took_s = time.monotonic() - started_s
        require(made.json()["bytes"] == came == FILE_NBYTES, f"{came} bytes came back")
    grown = _flat(peak)
    say(f"  512 MiB: up in {up_s:.1f} s, down in {took_s - up_s:.1f} s, {grown}")


def batch_of_100_000_lines(place: Place) -> None:
    """The most lines of a job: read as a stream, answered, written, once each."""

    def lines() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        for number in range(NUM_LINES):
            body = {"model": "tiny", "input": f"wind {number}", "encoding_format": "base64"}
            yield json.dumps({"custom_id": f"c{number}", "body": body}).encode() + b"\n"
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    with place.served() as server, httpx.Client(base_url=server.url, timeout=600) as client:
        file = client.post("/v1/files", content=lines(), headers=headers).json()
        require(file["num_lines"] == NUM_LINES, f"{file}")
        with Peak(server) as peak:
            started_s = time.monotonic()
            asked = {"endpoint": "/v1/embeddings", "input_files": [file["id"]]}
            job = client.post("/v1/batch/jobs", json=asked).json()
            while job["status"] in ("QUEUED", "RUNNING"):
                time.sleep(1)
                job = client.get(f"/v1/batch/jobs/{job['id']}").json()
            took_s = time.monotonic() - started_s
        require(job["status"] == "SUCCESS" and job["succeeded_requests"] == NUM_LINES, f"{job}")
        ids = set()
        with client.stream("GET", f"/v1/files/{job['output_file']}/content") as answer:
            for line in answer.iter_lines():
                ids.add(json.loads(line)["custom_id"])
        require(len(ids) == NUM_LINES, f"{len(ids)} lines of output")
    grown = _flat(peak)
    say(f"  {NUM_LINES} lines in {took_s:.0f} s, {NUM_LINES / took_s:.0f} lines/s, {grown}")


def _flat(peak: Peak) -> str:
    grown = peak.most - peak.before
    require(grown <= MAX_GROWTH, f"memory grew by {grown / 2**20:.0f} MiB")
    return f"memory {peak.before / 2**20:.0f} MiB before, {peak.most / 2**20:.0f} at most"
