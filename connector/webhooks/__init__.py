"""Webhooks: signed events of the API, received and kept until the people they name are looked up.

An event is a hint, not a row. It is verified, and noted on disk (`inbox`) before it is acknowledged
(`receiver`); what it says of a person isn't kept. So duplicates, disorder and incomplete payloads
do no harm. Neither the API key nor the destination is needed here.

    from connector.settings import load
    from connector.webhooks import asgi_app

    app = asgi_app(load())  # for any ASGI server
"""

from __future__ import annotations

from connector.webhooks.receiver import asgi_app

__all__ = ["asgi_app"]
