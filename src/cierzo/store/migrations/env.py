"""What Alembic runs around the steps: our connection, our transaction (`migrate`)."""

from __future__ import annotations

from alembic import context

from cierzo.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column by copying its table
)
context.run_migrations()
