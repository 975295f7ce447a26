"""The metrics: every file of this folder is one method, and a name of this package."""

from ...registry import load_package

globals().update(load_package(__name__))
