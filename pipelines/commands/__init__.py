"""The commands of `hiringcenter`: each module has `register(app)` and is thin.

Nothing heavy (dlt, sqlalchemy, httpx, pydantic, rich) is imported when one of these modules is:
`hiringcenter --help` imports them all.
"""
