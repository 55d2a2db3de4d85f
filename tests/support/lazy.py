"""Modules that few tests need and that take long to import, such as the clients of model servers.

Each process of a test run imports all test files, but runs only a part of their tests.
"""

from importlib import import_module
from typing import Any


class LazyModule:
    """Stands for a module, which is imported when something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        # When pytest collects tests, it looks for private attributes of all that a module has.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(import_module(self._name), name)
