"""Numba made ready by a first call: half a second for each process that is not forked from one that has done it."""

from fmuc.fast.kernels import tile_length

tile_length(1)
