"""What was planned and what is proven: every write on disk before it is sent.

A row of the input is checked and put aside (`staging`), what is known of its person is gathered
(`evidence`, `matching`), and what it would do is decided (`planner`). Its writes wait in the
`outbox`; what was accepted becomes `receipts`, what became of the row a result. `pairing` proves
that the outbox is the ledger's own.
"""
