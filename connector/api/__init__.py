"""The HiringCenter REST API v2: its lists, and the only code that uses the network.

`envelopes` and `retry` are pure; `transport` sends and receives
under a total deadline; `client` combines them and takes a permit before every try.
"""
