"""Helpers of the teaching notebooks: source listings, sound players, a toy in the plane, what a threshold asks for."""

from __future__ import annotations

import base64
import html
import inspect
import io
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import soundfile
import torch
from IPython.display import HTML, Markdown
from matplotlib.axes import Axes
from packaging.requirements import Requirement  # comes with matplotlib
from torch import Tensor, nn
from torch.nn import functional

from . import datasets, paths
from .config import Features
from .features import mel_frequencies
from .model import Dropout

TOY_CENTRES = ((0.0, 1.6), (-1.5, -1.0), (1.5, -1.0))  # one cloud of points per class


def show_source(*objects: object) -> Markdown:
    """Source of functions or classes of this package as highlighted Markdown, each under the name of its file."""
    parts = []
    for item in objects:
        path = paths.relative(inspect.getsourcefile(item))
        parts.append(f"`{item.__qualname__}` in [`{path}`](../{path})\n\n```python\n{inspect.getsource(item)}```")
    return Markdown("\n\n".join(parts))
