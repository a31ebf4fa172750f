"""Every option that dlt can resolve, from its own specifications, each set to something harmful."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterable, Iterator

import pytest
from dlt.common.configuration.specs.base_configuration import BaseConfiguration

from pipelines.destination.dlt_options import is_location

_PACKAGES = (
    "dlt.destinations.impl", "dlt.common", "dlt.pipeline", "dlt.load", "dlt.extract",
    "dlt.normalize",
)  # fmt: skip
HARMFUL = {
    "dev_mode": "true",
    "full_refresh": "true",
    "refresh": "drop_sources",
    "restore_from_destination": "false",
    "naming": "direct",
    "dataset_name": "elsewhere",
    "dataset_name_layout": "x_%s",
    "replace_strategy": "truncate-and-insert",
    "pool_type": "process",
    "next_item_mode": "fifo",
    "create_indexes": "false",
    "log_level": "DEBUG",
    "log_format": "{message}",
}
"""What else there is is set to 1, which is a number, a truth value and a text."""


def specs() -> list[type[BaseConfiguration]]:
    """dlt's specifications of options, as far as their packages are installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in _PACKAGES:
            for module in pkgutil.walk_packages(sys.modules[package].__path__, f"{package}."):
                try:
                    importlib.import_module(module.name)
                except ImportError:  # of what isn't installed
                    continue
    found = {spec for spec in _below(BaseConfiguration) if spec.__module__.startswith("dlt.")}
    return sorted(found, key=lambda spec: spec.__qualname__)


def _below(spec: type[BaseConfiguration]) -> Iterator[type[BaseConfiguration]]:
    for each in spec.__subclasses__():
        yield each
        yield from _below(each)


def harmful_environment(
    monkeypatch: pytest.MonkeyPatch, sections: Iterable[tuple[str, ...]]
) -> None:
    """Set every option in every section, except places, and what the system itself needs."""
    names = {name for spec in specs() for name in spec.get_resolvable_fields()}
    for section in sections:
        for name in names:
            variable = "__".join((*section, name)).upper()
            if variable not in os.environ and not is_location(name, section):
                monkeypatch.setenv(variable, HARMFUL.get(name, "1"))
