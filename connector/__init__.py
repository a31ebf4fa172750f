"""HiringCenter connector: a two-way, rate-budgeted data connector for the HiringCenter API v2."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hiringcenter-connector")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
