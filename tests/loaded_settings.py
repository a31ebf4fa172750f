"""Settings as an environment has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from unittest import mock

from connector import settings
from connector.settings import Settings


def load_with(environ: Mapping[str, str], *arguments: Any, **options: Any) -> Settings:
    """`connector.settings.load` where `environ` is set, too."""
    with mock.patch.dict(os.environ, environ):
        return settings.load(*arguments, **options)
