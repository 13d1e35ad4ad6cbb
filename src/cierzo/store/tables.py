"""The tables, as the newest migration leaves them. Times are unix milliseconds, money is micros.

A micro is a millionth of a dollar. Rows that others refer to are never deleted: a key is
revoked, a workspace or an organisation archived, and the ledger keeps their names' meaning.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
    true,
)

DEFAULT_ID = "default"
"""Of the organisation that runs the server, and of its first workspace: both are there from the
beginning."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


_ID = String(64)


def _limits() -> tuple[Column[int], ...]:
    """What an organisation, a workspace or a key may use; NULL is no limit (`limits.py`)."""
    return (
        Column("budget_micros_month", BigInteger),
        Column("requests_per_minute", Integer),
        Column("tokens_per_minute", Integer),
        Column("tokens_per_month", BigInteger),
        Column("max_concurrent", Integer),
    )


organisations = Table(
    "organisations",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("archived_at_ms", BigInteger),
    *_limits(),
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("organisation_id", _ID, ForeignKey("organisations.id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("archived_at_ms", BigInteger),
    *_limits(),
    UniqueConstraint("organisation_id", "name"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("workspace_id", _ID, ForeignKey("workspaces.id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("secret_sha256", LargeBinary(32), nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("endpoints", JSON(none_as_null=True)),
    Column("models", JSON(none_as_null=True)),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    *_limits(),
    Index(
        "uq_api_keys_live_name",
        "workspace_id",
        "name",
        unique=True,
        sqlite_where=text("revoked_at_ms IS NULL"),
        postgresql_where=text("revoked_at_ms IS NULL"),
    ),
)

usage_records = Table(
    "usage_records",
    metadata,
    Column("request_id", _ID, primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False, index=True),
    Column("workspace_id", _ID, ForeignKey("workspaces.id"), nullable=False),
    Column("key_id", _ID, ForeignKey("api_keys.id")),
    Column("model", String(400), nullable=False),
    Column("endpoint", String(100), nullable=False),
    Column("status", String(20), nullable=False),
    Column("is_batch", Boolean, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("price_micros", BigInteger, nullable=False),
    Column("upstream", String(200)),
    Column("usage_known", Boolean, nullable=False, server_default=true()),
    Index(None, "workspace_id", "created_at_ms"),
    Index(None, "key_id", "created_at_ms"),
)

prices = Table(
    "prices",
    metadata,
    Column("model", String(400), primary_key=True),
    Column("effective_at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("input_micros", BigInteger, nullable=False),
    Column("output_micros", BigInteger, nullable=False),
    Column("cached_percent", Integer, nullable=False),
    Column("batch_percent", Integer, nullable=False),
)

transcripts = Table(
    "transcripts",
    metadata,
    Column("request_id", _ID, primary_key=True),
    Column("workspace_id", _ID, ForeignKey("workspaces.id"), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False, index=True),
    Column("request", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
)
"""What was asked and answered, where the operator keeps it."""

upstreams = Table(
    "upstreams",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("url", String(1000), nullable=False),
    Column("key_env", String(200)),
    Column("tokenizer", String(1000)),
    Column("models", JSON, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
"""Servers elsewhere. Of a key only the name of its environment variable is here."""

files = Table(
    "files",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("workspace_id", _ID, ForeignKey("workspaces.id"), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("sample_type", String(64), nullable=False),
    Column("source", String(64), nullable=False),
    Column("mimetype", String(200), nullable=False),
    Column("visibility", String(64), nullable=False),
    Column("size_nbytes", BigInteger, nullable=False),
    Column("num_lines", BigInteger),
    Column("url_secret", LargeBinary(32), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, index=True),
    Index(None, "workspace_id", "created_at_ms"),
)
"""What is in the folder of files; the bytes lie there under the row's id."""

batch_jobs = Table(
    "batch_jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("workspace_id", _ID, ForeignKey("workspaces.id"), nullable=False),
    Column("key_id", _ID, ForeignKey("api_keys.id")),
    Column("endpoint", String(100), nullable=False),
    Column("model", String(400)),
    Column("labels", JSON(none_as_null=True)),
    Column("input_files", JSON, nullable=False),
    Column("inline_file", _ID),
    Column("timeout_hours", Integer, nullable=False),
    Column("status", String(40), nullable=False, index=True),
    Column("errors", JSON, nullable=False),
    Column("num_requests", Integer, nullable=False),
    Column("num_succeeded", Integer, nullable=False),
    Column("num_failed", Integer, nullable=False),
    Column("output_file", _ID),
    Column("error_file", _ID),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("completed_at_ms", BigInteger),
    Index(None, "workspace_id", "created_at_ms"),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("job_id", _ID, ForeignKey("batch_jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("is_success", Boolean, nullable=False),
    Column("line", LargeBinary, nullable=False),
)
"""Answered lines of jobs that still run; when a job ends they become its files."""
