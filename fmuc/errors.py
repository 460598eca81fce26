"""The exception that users see."""

from __future__ import annotations

LONGEST = 800  # characters of a message


class FmucError(Exception):
    """Bad input or missing data. The message is one line that names the thing and the remedy; exit status 1.

    Messages may quote any file: control characters are escaped, and the middle of a long line is left out.
    """

    def __str__(self) -> str:
        text = super().__str__()
        text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class ConfigError(FmucError, ValueError):
    """A value that no configuration may have. The message names the key."""
