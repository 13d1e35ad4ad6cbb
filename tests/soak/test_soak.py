"""A short soak of a tiny model, in a process of its own as people run it."""

from __future__ import annotations

from pathlib import Path

from tests.soak.__main__ import Soak
from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_gguf(model, tiny_model("llama", max_seq_len=2048), block_type=BlockType.Q8_0)
    flags = ("--max-running", "8", "--max-waiting", "4", "--threads", "1")
    soak = Soak(str(model), seconds=15, clients=24, serve_flags=flags)
    soak.run()
    assert "every KV block is free" in soak.log[2]
