"""Keys, workspaces, prices, usage and cost on the command line, against one store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cierzo.cli import run
from cierzo.cli.options import micros
from cierzo.money import dollars
from cierzo.store import Database, api_keys, ledger, open_database
from cierzo.store.ledger import DAY_MS
from cierzo.store.tables import DEFAULT_ID
from tests.cli.conftest import Cli
from tests.store.test_ledger import record


def with_store(tmp_path: Path, work: Callable[[Database], object]) -> None:
    database = open_database(tmp_path, None)
    work(database)
    database.close()


def test_a_key_from_its_making_to_its_end(cli: Cli, tmp_path: Path) -> None:
    assert "the server is open" in cli("keys list")
    spelling = cli("keys create ci --endpoint chat --model tiny --budget-usd 12.50").strip()
    with_store(tmp_path, lambda database: _check_key(database, spelling))
    listed = cli("keys list")
    assert "ci" in listed and "$12.50/month" in listed and spelling not in listed
    assert spelling.rsplit("_")[2] not in cli("keys list --json")
    assert "60 requests/min" in cli("keys limit ci --requests-per-minute 60")
    (key,) = json.loads(cli("keys list --workspace default --json"))
    assert (key["limits"]["requests_per_minute"], key["limits"]["budget_micros_month"]) == (
        60,
        None,
    )
    assert "is revoked" in cli("keys revoke ci")
    assert "revoked 2" in cli("keys list")
    assert "no key 'ci'" in cli("keys revoke ci")
    assert "no endpoint 'chats'" in cli("keys create x --endpoint chats")
    assert "expired" in cli("keys create brief --expires-days 0") + cli("keys list")


def _check_key(database: Database, spelling: str) -> None:
    key = api_keys.authenticate(database, spelling)
    assert key is not None
    assert (key.endpoints, key.models, key.workspace_id) == (("chat",), ("tiny",), DEFAULT_ID)


def test_a_workspace_from_its_making_to_its_end(cli: Cli) -> None:
    cli("workspaces create team --tokens-per-minute 9")
    cli("keys create ci --workspace team --admin")
    assert "9 tokens/min" in cli("workspaces list")
    assert "no limits" in cli("workspaces limit team")
    assert "archived" in cli("workspaces archive team")
    archived = json.loads(cli("workspaces list --json"))[-1]
    assert archived["archived_at_ms"] is not None
    assert "archived with its workspace" in cli("keys list") and "admin all endpoints" in cli(
        "keys list"
    )


def test_an_organisation_from_its_making_to_its_end(cli: Cli) -> None:
    cli("organisations create acme --budget-usd 3")
    assert "acme/team" in cli("workspaces create team --organisation acme")
    cli("workspaces create team")
    spelling = cli("keys create ci --workspace acme/team --admin")
    assert spelling.startswith("cierzo_")
    assert "several workspaces are called 'team'" in cli("keys create ci --workspace team")
    assert "acme/team" in cli("workspaces list") and "acme/team" in cli("keys list")
    assert "$3.00/month" in cli("organisations list")
    assert "no limits" in cli("organisations limit acme")
    assert cli("usage --organisation acme --csv").splitlines()[1].startswith("0,")
    assert "archived" in cli("organisations archive acme")
    assert json.loads(cli("organisations list --json"))[-1]["archived_at_ms"] is not None
    assert "archived with its workspace" in cli("keys list")


def test_usage_adds_up(cli: Cli, tmp_path: Path) -> None:
    rows = (
        record("a", created_at_ms=DAY_MS * 31, price_micros=1_500_000),
        record("b", created_at_ms=DAY_MS * 32, model="big", cached_tokens=0),
        record("c", created_at_ms=DAY_MS * 32, is_batch=True, prompt_tokens=10**6 + 4),
        record("d", created_at_ms=DAY_MS * 90, status="failed", price_micros=0),
    )
    with_store(tmp_path, lambda db: db.write(lambda c: ledger.insert_usage(c, rows)))
    assert cli("usage --csv").splitlines()[1] == "4,1000034,12,12,1.500014,0"
    by_model = list(csv.DictReader(io.StringIO(cli("usage --by model --by day --csv"))))
    assert [(row["model"], row["day"]) for row in by_model] == [
        ("big", "1970-02-02"),
        ("tiny", "1970-02-01"),
        ("tiny", "1970-02-02"),
        ("tiny", "1970-04-01"),
    ]
    assert cli("usage --month 1970-02 --csv").splitlines()[1].startswith("3,")
    assert cli("usage --since 1970-02-02 --csv").splitlines()[1].startswith("3,")
    assert cli("usage --month 1970-12 --csv").splitlines()[1].startswith("0,")
    hosted = cli("usage --hosted ministral-8b-2512 --workspace default --csv").splitlines()
    # $0.15 both ways: 19.4 tokens at once (1.5 + 2.9 micros), a million in a batch ($0.075).
    assert hosted[0].endswith("ministral-8b-2512_usd")
    assert float(hosted[1].rpartition(",")[2]) == pytest.approx(0.075, abs=1e-5)
    wide = cli("usage --by key --by model --by endpoint --by day --hosted ministral-8b-2512")
    assert "/v1/chat/completions" in wide and "ministral-8b-2512_usd" in wide and "…" not in wide
    assert "no price preset" in cli("usage --hosted gpt")
    assert "not both" in cli("usage --month 1970-02 --since 1970-02-02")
    assert "looks like 2026-11" in cli("usage --month May")


def test_prices_from_now_on(cli: Cli) -> None:
    assert "everything is free" in cli("prices list")
    assert "$0.15 in, $0.60 out" in cli("prices set tiny --as mistral-small-2603")
    cli("prices set tiny --in 1 --out 2.000001 --cached-percent 20 --from 2999-01-01")
    listed = cli("prices list")
    assert "2999-01-01" in listed and "2.000001" in listed and "20 %" in listed
    assert "cannot begin in the past" in cli("prices set tiny --in 1 --from 2020-01-01")
    assert "give --in and --out, or --as" in cli("prices set tiny")
    assert run(["prices", "presets"]) == 0


def test_the_machines_own_price(cli: Cli, tmp_path: Path) -> None:
    assert "nothing in the ledger" in cli("cost --machine-per-hour 0.40")
    rows = [
        record("a", created_at_ms=10_000, duration_ms=10_000, prompt_tokens=900_000),
        record("b", created_at_ms=12_000, duration_ms=9_000, completion_tokens=100_000),
        record("c", created_at_ms=36_000, duration_ms=6_000, prompt_tokens=0, cached_tokens=0),
        record("d", created_at_ms=34_000, duration_ms=1_000, prompt_tokens=0, cached_tokens=0),
    ]
    with_store(tmp_path, lambda db: db.write(lambda c: ledger.insert_usage(c, rows)))
    report = json.loads(cli("cost --machine-per-hour 0.40 --json"))
    tokens = 900_000 + 100_000 + 10 + 9
    assert (report["busy_s"], report["span_s"]) == (18.0, 36.0)
    assert report["tok_s"] == pytest.approx(tokens / 18)
    assert report["micros_per_million_tokens"]["busy"] == pytest.approx(2000, abs=1)
    assert report["micros_per_million_tokens"]["whole"] == pytest.approx(4000, abs=1)
    assert report["hosted_micros_per_million_tokens"]["ministral-8b-2512"] == pytest.approx(
        150_000, rel=1e-4
    )
    shown = cli("cost --machine-per-hour 0.40")
    assert "this machine, busy time" in shown and "mistral-small-2603" in shown


@pytest.mark.parametrize("amount", ["x", "-1", "1e-9", "nan", "inf", ""])
def test_money_is_exact_or_refused(cli: Cli, amount: str) -> None:
    assert run(["workspaces", "create", "team", "--budget-usd", amount]) == 2


def test_money_as_people_write_it() -> None:
    assert [micros(text, "") for text in ("12.50", "$3", "0.000001")] == [12_500_000, 3_000_000, 1]
    assert [dollars(amount) for amount in (12_500_000, 150_000, 1, 0)] == [
        "12.50",
        "0.15",
        "0.000001",
        "0.00",
    ]
