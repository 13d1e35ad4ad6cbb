"""vLLM's server on the CPU as a rival for `benchmarks.server`: the same weights, but in bf16, as it
has no 4-bit kernels there.

Runs from .venv-vllm (`make .venv-vllm/.gguf`). Knows nothing of what is measured.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.rivals import process

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
MAX_RUNNING = 128
MAX_START_S = 300


@contextmanager
def served(model: Path, name: str) -> Iterator[str]:
    """The base URL of a server that calls the weights of the GGUF file `model` by `name`."""
    port = process.free_port()
    with TemporaryDirectory(prefix="cierzo-vllm-") as folder:
        maker = [str(PYTHON), "-m", "benchmarks.rivals.vllm_folder", str(model), folder]
        subprocess.run(maker, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        with process.served(_command(folder, name, port), port, MAX_START_S, _variables()) as url:
            yield url


def _command(folder: str, name: str, port: int) -> list[str]:
    command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "bfloat16", "--max-model-len", "1024", "--enable-prefix-caching"]
    command += ["--max-num-seqs", str(MAX_RUNNING), "--disable-uvicorn-access-log"]
    return command


def _variables() -> dict[str, str]:
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
