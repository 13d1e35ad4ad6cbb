"""Real labelled texts classified: accuracy without examples and with a fitted head, and texts per
minute, beside the same question answered by generating with llama.cpp.

    python -m benchmarks.classify MODEL.gguf [--texts 200] [--examples 200] [--data FOLDER]

Prints a table in Markdown. Without .venv-bench (`make bench` makes it) llama.cpp's columns are
empty.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.labelled_texts import DATASETS, Dataset
from cierzo import LLM
from cierzo.classifiers.fitting import fit_head
from cierzo.classifiers.scoring import Scorer
from cierzo.cli.fit import renderer
from cierzo.engine.readout import ReadPrompt

ROOT = Path(__file__).parents[1]
RIVAL = ROOT / ".venv-bench" / "bin" / "python"
HEADER = (
    "| texts | labels | question alone | head, {} examples | texts/min | "
    "generated (llama.cpp) | texts/min |\n|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=int, default=200, help="texts to classify, per set")
    parser.add_argument("--examples", type=int, default=200, help="others, to fit the head on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", nargs="+", default=[dataset.name for dataset in DATASETS])
    parser.add_argument("--data", type=Path, default=Path("~/.cache/cierzo/labelled"))
    arguments = parser.parse_args()
    data = arguments.data.expanduser()
    print(HEADER.format(arguments.examples))
    for dataset in DATASETS:
        if dataset.name in arguments.sets:
            print(_row(dataset, arguments, data), flush=True)


def _row(dataset: Dataset, arguments: argparse.Namespace, data: Path) -> str:
    labels = dataset.question.labels
    pairs = dataset.texts(data)[: arguments.texts + arguments.examples]
    truth = np.array([labels.index(label) for _, label in pairs], np.int64)
    of_tests, of_examples = slice(0, arguments.texts), slice(arguments.texts, None)
    with LLM(arguments.model, threads=arguments.threads, max_model_len=1024) as llm:
        scorer = Scorer(dataset.question, llm.tokenizer, renderer(llm))
        prompts = [scorer.prompt(scorer.text_ids(text), scorer.full_readout) for text, _ in pairs]
        scorer.calibrate(list(llm.read(scorer.content_free_prompts())))
        started = time.perf_counter()
        readings = list(llm.read(prompts[of_tests]))
        per_minute = 60 * len(readings) / (time.perf_counter() - started)
        readings += llm.read(prompts[of_examples])
    scores = np.array([scorer.scores(reading) for reading in readings])
    hidden = np.array([reading.hidden for reading in readings], np.float32)
    head, _ = fit_head(hidden[of_examples], truth[of_examples], labels)
    by_head = np.array([head.scores(row) for row in hidden[of_tests]])
    cells = [
        f"{dataset.name}, {len(readings[of_tests])}",
        str(len(labels)),
        f"{_accuracy(scores[of_tests], truth[of_tests]):.1%}",
        f"{_accuracy(by_head, truth[of_tests]):.1%}",
        f"{per_minute:.0f}",
        *_rival(prompts[of_tests], labels, truth[of_tests], arguments),
    ]
    return f"| {' | '.join(cells)} |"


def _accuracy(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    return float((scores.argmax(axis=1) == truth).mean())


def _rival(
    prompts: list[ReadPrompt],
    labels: tuple[str, ...],
    truth: NDArray[np.int64],
    arguments: argparse.Namespace,
) -> list[str]:
    """llama.cpp's accuracy and texts per minute."""
    if not RIVAL.exists():
        return ["", ""]
    task = {"prompts": [prompt.token_ids for prompt in prompts], "labels": labels}
    command = [str(RIVAL), "-m", "benchmarks.rivals.llama_classify", str(arguments.model)]
    command += ["--threads", str(arguments.threads)]
    done = subprocess.run(
        command, input=json.dumps(task), capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(done.stdout)
    is_right = [
        answer == label for answer, label in zip(found["answers"], truth.tolist(), strict=True)
    ]
    num_unclear = found["answers"].count(None)
    unclear = f" ({num_unclear} without a label)" if num_unclear else ""
    return [f"{np.mean(is_right):.1%}{unclear}", f"{60 * len(is_right) / found['seconds']:.0f}"]


if __name__ == "__main__":
    main()
