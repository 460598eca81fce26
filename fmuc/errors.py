"""The one exception that users see."""

from __future__ import annotations


class FmucError(Exception):
    """Bad input or missing data. The message is one line that names the thing and the remedy; exit status 1."""
