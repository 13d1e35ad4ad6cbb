"""Batch jobs, and the answered lines of those that run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "batch_jobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("workspace_id", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("endpoint", sa.String(100), nullable=False),
        sa.Column("model", sa.String(400)),
        sa.Column("labels", sa.JSON(none_as_null=True)),
        sa.Column("input_files", sa.JSON, nullable=False),
        sa.Column("inline_file", sa.String(64)),
        sa.Column("timeout_hours", sa.Integer, nullable=False),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("errors", sa.JSON, nullable=False),
        sa.Column("num_requests", sa.Integer, nullable=False),
        sa.Column("num_succeeded", sa.Integer, nullable=False),
        sa.Column("num_failed", sa.Integer, nullable=False),
        sa.Column("output_file", sa.String(64)),
        sa.Column("error_file", sa.String(64)),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("started_at_ms", sa.BigInteger),
        sa.Column("completed_at_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_batch_jobs"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_batch_jobs_workspace_id"
        ),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_batch_jobs_key_id"),
    )
    for columns in (["status"], ["workspace_id", "created_at_ms"]):
        op.create_index(f"ix_batch_jobs_{'_'.join(columns)}", "batch_jobs", columns)
    op.create_table(
        "batch_lines",
        sa.Column("job_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("is_success", sa.Boolean, nullable=False),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_batch_lines"),
        sa.ForeignKeyConstraint(["job_id"], ["batch_jobs.id"], name="fk_batch_lines_job_id"),
    )
