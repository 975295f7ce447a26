"""The command line: one command, one public function. Everything heavy is imported when a command runs."""

from . import studies, publishing, audits, checkpoints, lookup, stores, boards  # noqa: F401, I001 - they register their commands, in the order of --help
from .command import app, main

__all__ = ["app", "main"]
