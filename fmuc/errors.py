"""The one exception that users see, and the errors of the system that mean a full disk."""

from __future__ import annotations

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # no room, or no more for this user


class FmucError(Exception):
    """Bad input or missing data. The message is one line that names the thing and the remedy; exit status 1."""
