"""What the outbox forgets, and when.

Bodies and rows of a write go as soon as its fate is known (see `outbox`). Here go, after the
retention: planned writes that were never sent, hashes and outcomes of closed ones, results that
have landed, and receipts that no push has used since. Writes whose answer is missing, and those
of unknown fate, stay: forgetting them could send them twice.
"""

from __future__ import annotations

import sqlalchemy as sa

from connector.upsert.outbox.outbox import Outbox
from connector.upsert.outbox.schema import (
    aliases,
    attached,
    receipts,
    results,
    settled_names,
    writes,
)
from connector.upsert.outbox.states import State


def forget(outbox: Outbox, before_ms: int) -> None:
    """Drop what was last of use before `before_ms` (UTC epoch ms)."""
    scope = outbox.scope
    over = (State.PLANNED.value, State.CLOSED.value)
    with outbox.database.write() as connection:
        connection.execute(
            sa.delete(writes).where(
                writes.c.scope == scope, writes.c.state.in_(over), writes.c.planned_ms < before_ms
            )
        )
        connection.execute(
            sa.delete(results).where(
                results.c.scope == scope, results.c.landed, results.c.pushed_ms < before_ms
            )
        )
        old = connection.execute(
            sa.delete(receipts).where(receipts.c.scope == scope, receipts.c.seen_ms < before_ms)
        ).rowcount
        connection.execute(
            sa.delete(attached).where(attached.c.scope == scope, attached.c.seen_ms < before_ms)
        )
        if old:
            _forget_aliases(connection, scope)


def _forget_aliases(connection: sa.Connection, scope: int) -> None:
    """Names that lead to prospects without a receipt, and those settled on them."""
    receipt = sa.select(receipts.c.prospect_id).where(receipts.c.scope == scope)
    for table in (aliases, settled_names):
        connection.execute(
            sa.delete(table).where(table.c.scope == scope, table.c.prospect_id.not_in(receipt))
        )
