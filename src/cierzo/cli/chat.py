"""`cierzo chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cierzo.cli import options
from cierzo.cli.console import err
from cierzo.errors import ContextOverflowError, PromptError, RequestError

if TYPE_CHECKING:
    from cierzo.engine.request import SamplingParams
    from cierzo.llm import LLM

HELP = "/clear forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def chat(
    model: options.OptionalModel = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    max_tokens: options.MaxTokens = 1024,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 1.0,
    seed: options.Seed = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    dtype: options.Dtype = None,
    max_model_len: options.MaxModelLen = None,
    home: options.Home = None,
) -> None:
    """Talk to a model. No MODEL: the default one."""
    from cierzo.cli.local import open_model
    from cierzo.engine.request import SamplingParams
    from cierzo.hub import DEFAULT_MODEL

    settings = options.settings_of(
        threads=threads, isa=isa, dtype=dtype, max_model_len=max_model_len, home=home
    )
    params = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    with open_model(model or DEFAULT_MODEL, settings) as llm:
        err.print(f"{model or DEFAULT_MODEL}. {HELP}")
        converse(llm, params, system)


def converse(llm: LLM, params: SamplingParams, system: str | None) -> None:
    """Read, answer, remember, until the end of input."""
    opening: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    while True:
        line = _read_line()
        if line is None or line == "/exit":
            return
        if line == "/clear":
            messages = list(opening)
        elif line == "/help":
            err.print(HELP)
        elif line.startswith("/") and " " not in line:
            err.print(f"no command {line}; {HELP}")
        elif line:
            messages.append({"role": "user", "content": line})
            answer = _answer(llm, messages, params)
            if answer:
                messages.append({"role": "assistant", "content": answer})
            else:
                messages.pop()


def _read_line() -> str | None:
    """What the person typed; None at the end of input. Ctrl-C gives an empty line."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (gives input() its editing and history)
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        err.print()
        return ""


def _answer(llm: LLM, messages: list[dict[str, Any]], params: SamplingParams) -> str:
    """Stream one answer; what was said until Ctrl-C counts. Empty when it could not be asked."""
    said: list[str] = []
    try:
        for piece in llm.stream_chat(messages, params):
            said.append(piece)
            typer.echo(piece, nl=False)
    except KeyboardInterrupt:
        err.print(" (stopped)", end="")
    except (PromptError, RequestError) as error:
        way_out = "; /clear starts over" if isinstance(error, ContextOverflowError) else ""
        err.print(f"error: {error}{way_out}", markup=False, end="")
    typer.echo()
    return "".join(said)
