"""FixMatch with uncertainty for audio: the helper package behind the notebooks of this paper companion."""

from __future__ import annotations

__version__ = "0.1.0"
