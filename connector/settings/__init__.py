"""The settings tree: typed and frozen; an unknown name is refused with the nearest known one.

Precedence, highest first: `overrides` (flags), environment `HIRINGCENTER_*`, `.env`,
`config/hiringcenter.toml` (or the file given), defaults. Nested names use two underscores in
the environment: `HIRINGCENTER_PULL__FULL_SHARE`.
"""

from __future__ import annotations

from connector.settings.folders import open_project
from connector.settings.loading import VENDOR_HOST, account_settings, load
from connector.settings.tree import (
    Account,
    AlertSettings,
    HttpSettings,
    MartSettings,
    PullSettings,
    PushJob,
    RateLimit,
    ResourceSettings,
    Settings,
    WatchSettings,
    WebhookSettings,
    WriteSettings,
    check_base_url,
    check_public_url,
    is_loopback,
    parse_rate_limits,
)

__all__ = [
    "VENDOR_HOST", "Account", "AlertSettings", "HttpSettings", "MartSettings",
    "PullSettings", "PushJob", "RateLimit", "ResourceSettings", "Settings", "WatchSettings",
    "WebhookSettings", "WriteSettings", "account_settings", "check_base_url", "check_public_url",
    "is_loopback", "load", "open_project", "parse_rate_limits",
]  # fmt: skip
