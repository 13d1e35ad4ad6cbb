"""`cierzo generate`: continue a text."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cierzo.cli import options


def generate(
    model: options.Model,
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; none, or -: read it from stdin.")
    ] = None,
    max_tokens: options.MaxTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    dtype: options.Dtype = None,
    max_model_len: options.MaxModelLen = None,
    home: options.Home = None,
) -> None:
    """Continue a text, as plain text: no chat template. Streams to stdout."""
    from cierzo.cli.local import open_model
    from cierzo.engine.request import SamplingParams

    settings = options.settings_of(
        threads=threads, isa=isa, dtype=dtype, max_model_len=max_model_len, home=home
    )
    text = sys.stdin.read() if prompt in (None, "-") else str(prompt)
    params = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    with open_model(model, settings) as llm:
        for piece in llm.stream(text, params):
            typer.echo(piece, nl=False)
        typer.echo()
