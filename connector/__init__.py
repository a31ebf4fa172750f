"""HiringCenter connector: a two-way, rate-budgeted data connector for the HiringCenter API v2."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """The version is looked up when it is asked for: `--help` doesn't wait for it."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hiringcenter-connector")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0+unknown"
