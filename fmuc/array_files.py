"""NumPy's array files, read as files that anybody may have made: no pickle, no memory that a header merely claims."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

LARGEST = 2**31  # bytes of all arrays of a file once unpacked


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file by name; ``ValueError``, ``OSError`` or ``BadZipFile`` for a damaged one."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > LARGEST:
            raise ValueError(f"unpacks to more than {LARGEST:,} bytes")
        if any(member.compress_size > path.stat().st_size for member in members):  # zipfile would ask for so much
            raise ValueError("is shorter than its directory says")
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("holds an array twice")
        try:
            return {name: parse_npy(archive.read(member)) for name, member in zip(names, members, strict=True)}
        except (NotImplementedError, RuntimeError, EOFError) as error:  # another compression, encrypted, cut short
            raise ValueError(str(error)) from None


def read_npy(path: Path) -> np.ndarray:
    """The array of an ``.npy`` file; ``ValueError`` or ``OSError`` for a damaged one."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"is larger than {LARGEST:,} bytes")
    return parse_npy(path.read_bytes())


def map_npy(path: Path) -> np.memmap:
    """The array of an ``.npy`` file as a memory map for reading; ``ValueError`` or ``OSError`` for a damaged one."""
    with open(path, "rb") as file:
        shape, by_columns, dtype = _header(file)
        start, size = file.tell(), path.stat().st_size
    if dtype.hasobject or size != start + _bytes(shape, dtype) or size == start:
        raise ValueError(f"holds {size - start} bytes of numbers, its header says {_bytes(shape, dtype)}")
    return np.memmap(path, dtype, "r", start, shape, "F" if by_columns else "C")


def parse_npy(content: bytes) -> np.ndarray:
    """The array of the bytes of an ``.npy`` file; ``ValueError`` unless it holds exactly what its header says."""
    stream = io.BytesIO(content)
    shape, by_columns, dtype = _header(stream)
    if dtype.hasobject or dtype.fields or dtype.subdtype:
        raise ValueError(f"holds {dtype}: only plain numbers and bytes are read")
    if dtype.itemsize > len(content):  # even an array without numbers takes the memory of one
        raise ValueError(f"holds {len(content)} bytes, its header says numbers of {dtype.itemsize}")
    size, rest = _bytes(shape, dtype), len(content) - stream.tell()
    if size != rest:
        raise ValueError(f"holds {rest} bytes of numbers, its header says {size}")
    flat = np.frombuffer(content, dtype, offset=stream.tell()) if rest else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if by_columns else "C").copy()


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """What an array takes; in whole numbers of Python nothing overflows."""
    if any(length < 0 for length in shape):
        raise ValueError(f"has the shape {shape}")
    return math.prod(shape) * dtype.itemsize


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether by columns, and type of the numbers that follow."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"has the version {version} of array files, known are 1.0 and 2.0")
    try:
        return readers[version](stream)
    except Exception as error:  # NumPy lets errors of its tokenizer through
        raise ValueError(f"has a header that cannot be read ({type(error).__name__})") from None
