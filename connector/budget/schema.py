"""The tables of the rate budget, one SQL schema for SQLite and PostgreSQL.

`spent` numbers the ended requests of a key (`seq`, and `push_seq` for those of the push lane).
`end_s` is stamped under the ledger's lock, so it rises with `seq`: how many requests still count
is the difference of two sequence numbers, when the next one leaves is the `end_s` of another;
nothing is ever counted row by row. All times are seconds of the ledger's own clock.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
_Number = sa.BigInteger
_Key = sa.String(32)
_Seconds = sa.Double

secrets = sa.Table(
    "budget_secrets",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)

clocks = sa.Table(
    "budget_clocks",
    metadata,
    sa.Column("boot", sa.String(64), primary_key=True),
    sa.Column("offset_s", _Seconds, nullable=False),
    sa.Column("reading_s", _Seconds, nullable=False),
    sa.Column("ledger_s", _Seconds, nullable=False),
    sa.Column("wall_s", _Seconds, nullable=False),
)

keys = sa.Table(
    "budget_keys",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("next_permit", _Number, nullable=False),
    sa.Column("seq", _Number, nullable=False),
    sa.Column("push_seq", _Number, nullable=False),
    sa.Column("pruned_seq", _Number, nullable=False),
    sa.Column("pruned_push_seq", _Number, nullable=False),
    sa.Column("last_end_s", _Seconds, nullable=False),
    sa.Column("last_grant_s", _Seconds),
    sa.Column("latency_s", _Seconds),
    sa.Column("keep_s", _Seconds, nullable=False),
    sa.Column("learnt", sa.Text, nullable=False),
    sa.Column("past_pulls", sa.Text, nullable=False),
)

outstanding = sa.Table(
    "budget_outstanding",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("id", _Number, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("push", sa.Integer, nullable=False),
    sa.Column("granted_s", _Seconds, nullable=False),
    sa.Column("awaited_until_s", _Seconds, nullable=False),
    sa.Column("deadline_s", _Seconds, nullable=False),
)

spent = sa.Table(
    "budget_spent",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("seq", _Number, primary_key=True, autoincrement=False),
    sa.Column("push_seq", _Number, nullable=False),
    sa.Column("granted_s", _Seconds, nullable=False),
    sa.Column("end_s", _Seconds, nullable=False),
    sa.Index("budget_spent_by_end", "key", "end_s", "seq", "push_seq"),
    sa.Index("budget_spent_by_push", "key", "push_seq", "end_s"),
)

owners = sa.Table(
    "budget_owners",
    metadata,
    sa.Column("key", _Key, primary_key=True),
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("command", sa.String(255), nullable=False),
    sa.Column("since_s", _Seconds, nullable=False),
    sa.Column("seen_s", _Seconds, nullable=False),
    # callers that wait for a permit, the first of them since when, and how long that is news
    sa.Column("waiting_pull", sa.Integer, nullable=False),
    sa.Column("waiting_push", sa.Integer, nullable=False),
    sa.Column("pull_since_s", _Seconds, nullable=False),
    sa.Column("push_since_s", _Seconds, nullable=False),
    sa.Column("valid_until_s", _Seconds, nullable=False),
    # what this process reads; see `lanes.RunningPull`
    sa.Column("pull_declared", sa.Integer, nullable=False),
    sa.Column("pull_seen_s", _Seconds, nullable=False),
    sa.Column("pull_requests", sa.Integer, nullable=False),
    sa.Column("pull_expected", sa.Integer),
    sa.Column("pull_chains", sa.Integer, nullable=False),
    sa.Column("pull_latency_s", _Seconds),
)

MIGRATIONS = (metadata.create_all,)
