"""Renders chat templates in a process of its own, so that none can hold or harm the server.

Run as a script: a line "ready", then one JSON answer per line on stdout to each line on stdin. The
parent (`template_process.py`) sets the time limit and kills it; memory is limited here.
Imports nothing of ours: it must start in milliseconds and hold nothing worth stealing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

try:
    import resource
except ImportError:  # not a Unix: the time limit alone holds
    resource = None  # type: ignore[assignment]


class _GenerationBlock(Extension):
    """{% generation %}…{% endgeneration %} marks training targets; here it is its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers: Jinja's own filter would escape HTML characters."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _environment() -> ImmutableSandboxedEnvironment:
    """Hugging Face's conventions for chat templates, in Jinja's strictest sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _renderer() -> Callable[[str, dict[str, Any], int], str]:
    environment = _environment()
    compiled = lru_cache(maxsize=8)(environment.from_string)

    def render(source: str, variables: dict[str, Any], max_chars: int) -> str:
        parts: list[str] = []
        length = 0
        for part in compiled(source).generate(variables):
            length += len(part)
            if length > max_chars:
                raise TemplateError(f"it writes more than {max_chars} characters")
            parts.append(part)
        return "".join(parts)

    return render


def _limit_memory(max_bytes: int) -> None:
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Says that it is ready, then answers {"text": …} or {"error": …} to each request until
    stdin closes."""
    _limit_memory(int(sys.argv[1]))
    render = _renderer()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            text = render(request["template"], request["variables"], request["max_chars"])
            answer = json.dumps({"text": text})
        except MemoryError:
            answer = json.dumps({"error": "it needs too much memory"})
        except Exception as error:  # whatever a hostile template raises is its author's fault
            answer = json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]})
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
