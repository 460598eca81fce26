"""The one exception that users see, and the errors of the system that mean a full disk."""

from __future__ import annotations

import errno

LONGEST = 800  # characters of a message
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no room, or no more for this user


class FmucError(Exception):
    """Bad input or missing data. The message is one line that names the thing and the remedy; exit status 1.

    What it quotes may come from any file: control characters are shown as escapes, a line too long loses its middle.
    """

    def __str__(self) -> str:
        text = super().__str__()
        text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
