"""Files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("workspace_id", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("sample_type", sa.String(64), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("mimetype", sa.String(200), nullable=False),
        sa.Column("visibility", sa.String(64), nullable=False),
        sa.Column("size_nbytes", sa.BigInteger, nullable=False),
        sa.Column("num_lines", sa.BigInteger),
        sa.Column("url_secret", sa.LargeBinary(32), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_files_workspace_id"),
    )
    for columns in (["expires_at_ms"], ["workspace_id", "created_at_ms"]):
        op.create_index(f"ix_files_{'_'.join(columns)}", "files", columns)
