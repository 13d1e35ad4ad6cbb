"""Organisations, workspaces, keys, the ledger, prices."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _limits() -> list[sa.Column[int]]:
    return [
        sa.Column("budget_micros_month", sa.BigInteger),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.Integer),
        sa.Column("tokens_per_month", sa.BigInteger),
        sa.Column("max_concurrent", sa.Integer),
    ]


def upgrade() -> None:
    organisations = op.create_table(
        "organisations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organisations"),
        sa.UniqueConstraint("name", name="uq_organisations_name"),
    )
    workspaces = op.create_table(
        "workspaces",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("organisation_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("archived_at_ms", sa.BigInteger),
        *_limits(),
        sa.PrimaryKeyConstraint("id", name="pk_workspaces"),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name="fk_workspaces_organisation_id"
        ),
        sa.UniqueConstraint("organisation_id", "name", name="uq_workspaces_organisation_id_name"),
    )
    _create_keys()
    _create_ledger()
    op.create_table(
        "prices",
        sa.Column("model", sa.String(400), nullable=False),
        sa.Column("effective_at_ms", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("input_micros", sa.BigInteger, nullable=False),
        sa.Column("output_micros", sa.BigInteger, nullable=False),
        sa.Column("cached_percent", sa.Integer, nullable=False),
        sa.Column("batch_percent", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("model", "effective_at_ms", name="pk_prices"),
    )
    first = {"id": "default", "name": "default", "created_at_ms": time.time_ns() // 1_000_000}
    op.bulk_insert(organisations, [first])
    op.bulk_insert(workspaces, [{**first, "organisation_id": "default"}])


def _create_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("workspace_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("endpoints", sa.JSON(none_as_null=True)),
        sa.Column("models", sa.JSON(none_as_null=True)),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger),
        sa.Column("revoked_at_ms", sa.BigInteger),
        *_limits(),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_api_keys_workspace_id"
        ),
    )
    op.create_index(
        "uq_api_keys_live_name",
        "api_keys",
        ["workspace_id", "name"],
        unique=True,
        sqlite_where=sa.text("revoked_at_ms IS NULL"),
        postgresql_where=sa.text("revoked_at_ms IS NULL"),
    )


def _create_ledger() -> None:
    op.create_table(
        "usage_records",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("workspace_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("model", sa.String(400), nullable=False),
        sa.Column("endpoint", sa.String(100), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("is_batch", sa.Boolean, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("price_micros", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_usage_records"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_usage_records_workspace_id"
        ),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_usage_records_key_id"),
    )
    for columns in (
        ["created_at_ms"],
        ["workspace_id", "created_at_ms"],
        ["key_id", "created_at_ms"],
    ):
        op.create_index(f"ix_usage_records_{'_'.join(columns)}", "usage_records", columns)
