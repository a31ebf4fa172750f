"""An exact simulator in virtual time: the real policy, servers that count, no sleeping.

`servers` count requests as they arrive; `memory_ledger` is the SQL ledger's twin in memory;
`world` runs processes, latencies, crashes and other spenders as events; `scenarios` puts them
together and measures. Nothing here takes a limit's arithmetic from the code under test.
"""
