"""The plan of a push and its receipts: every write is on disk before it is sent.

A row of the input is checked and stored (`staging`). Where it isn't at a glance what HiringCenter
has, the facts about its person are gathered (`evidence`, `matching`), and its outcome or writes are
decided (`planner`). Writes wait in the
`outbox`; accepted ones become `receipts`, and each row gets a result. `pairing` proves that the
outbox belongs to the ledger.
"""
