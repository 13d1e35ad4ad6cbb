"""The README's table of speeds, made from the newest result of `make bench`.

    python -m benchmarks.readme_table

What stands between the two markers is replaced; a test checks that it is what the result says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.cases import DIVIDENDS
from benchmarks.engines import ROOT

README = ROOT / "README.md"
BEGIN = "<!-- The table is made by `python -m benchmarks.readme_table` from a result file. -->\n"
END = "<!-- End of the table. -->\n"


def newest_result(folder: Path = ROOT / "benchmarks" / "results") -> Path | None:
    """By the date in its name; among those of one day the last by name."""
    found = [path for path in folder.glob("*.json") if path.name[:4].isdigit()]
    return max(found, default=None, key=lambda path: path.name)


def render(result: dict[str, Any], name: str) -> str:
    """The table and how it came to be, as Markdown."""
    loads = [load for case in result["cases"] for load in case["load_average"]]
    rivals = "; ".join(f"{rival}: {version}" for rival, version in result["rivals"].items())
    commits = ", ".join(dict.fromkeys(case["commit"] for case in result["cases"]))
    dates = " and ".join(sorted({case["date"] for case in result["cases"]}))
    rounds = sorted({case["rounds"] for case in result["cases"]}, reverse=True)
    lines = [
        f"{result['machine']}, {result['threads']} threads, {dates}, commit {commits}:",
        f"tokens per second, medians (least to most) of {' or '.join(map(str, rounds))} alternating"
        " rounds,",
        f"load average {min(loads):g} to {max(loads):g}. Rivals read the same file; {rivals}.",
        "The bound is what this machine's memory and matrix units allow, measured in the same run",
        f"([all numbers](benchmarks/results/{name}.json), [drawn](benchmarks/results/{name}.png)).",
        "",
        "| work | Cierzo | best rival | ratio | of the bound |",
        "|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        lines += [_row(case, row) for row in case["works"]]
    lines += _dividend_rows(result["cases"])
    return "\n".join(lines) + "\n"


def _row(case: dict[str, Any], row: dict[str, Any]) -> str:
    rivals = {name: rate for name, rate in row["tok_s"].items() if name != "Cierzo"}
    best = max(rivals, key=lambda name: rivals[name]["median"], default=None)
    rival = ratio = "—"
    if best is not None:
        rival = f"{best} {_spread(rivals[best])}"
        ratio = f"{row['ratio'][best]['median']:.2f}"
    bound = f"{row['floor']['fraction']:.0%} of {_number(row['floor']['floor_tok_s'])}"
    rate = row["tok_s"]["Cierzo"]
    ours = f"**{_number(rate['median'])}**{_range(rate)}"
    return f"| {row['title']}, {case['title']} | {ours} | {rival} | {ratio} | {bound} |"


def _dividend_rows(cases: list[dict[str, Any]]) -> list[str]:
    """How much faster a sparse model is than a dense one of as many parameters, by engine."""
    rows = []
    by_title = {case["title"]: case for case in cases}
    for sparse_name, dense_name in DIVIDENDS:
        sparse, dense = (by_title.get(f"{name} q4_0") for name in (sparse_name, dense_name))
        if sparse is None or dense is None:
            continue
        for at, of in zip(sparse["works"], dense["works"], strict=False):
            if at["work"] != of["work"]:
                continue
            gains = {
                name: rate["median"] / of["tok_s"][name]["median"]
                for name, rate in at["tok_s"].items()
                if name in of["tok_s"]
            }
            ideal = at["floor"]["floor_tok_s"] / of["floor"]["floor_tok_s"]
            others = ", ".join(f"{n} {g:.2f} ×" for n, g in gains.items() if n != "Cierzo")
            rows.append(
                f"| {at['title']}, {sparse_name} over {dense_name} | **{gains['Cierzo']:.2f} ×**"
                f" | {others or '—'} | | {gains['Cierzo'] / ideal:.0%} of {ideal:.2f} × |"
            )
    return rows


def _spread(rate: dict[str, float]) -> str:
    return f"{_number(rate['median'])}{_range(rate)}"


def _range(rate: dict[str, float]) -> str:
    """Nothing where there was one round."""
    if rate["least"] == rate["most"]:
        return ""
    return f" ({_number(rate['least'])} to {_number(rate['most'])})"


def _number(value: float) -> str:
    """`3594`, `84.5`, `6.85`: three digits at least."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def replaced(readme: str, table: str) -> str:
    """The README with this table between its markers."""
    before, found, rest = readme.partition(BEGIN)
    _, also_found, after = rest.partition(END)
    if not found or not also_found:
        raise SystemExit(f"{README} has lost the markers of its table:\n{BEGIN}{END}")
    return before + BEGIN + table + END + after


def main() -> None:
    newest = newest_result()
    if newest is None:
        raise SystemExit("no result yet: `make bench` writes one")
    table = render(json.loads(newest.read_text()), newest.stem)
    README.write_text(replaced(README.read_text(), table))
    print(table)


if __name__ == "__main__":
    main()
