"""The HiringCenter REST API v2: facts about its endpoints, and the only way to the network.

`endpoints` are facts; `envelopes`, `bodies` and `retry` are pure; `transport` sends and receives
under a total deadline; `client` puts them together and asks the budget before every try.
"""
