"""What the demo says when it cannot go on."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["DemoError", "optional"]


class DemoError(Exception):
    """A problem that one line explains; `status` is the process's exit status.

    Status 2 stands for what the user gave, 1 for what went wrong in the run.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def optional(module: str, package: str) -> Any:
    """Import a module of an optional package, or name the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DemoError(
            f'the demo needs {package} ({error}): pip install "fanin[demo]"'
        ) from error
