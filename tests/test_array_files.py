"""Array files that anybody may have made: what they hold, or one clear reason, and no memory for mere claims."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fmuc.features import LARGEST, parse_npy, read_npy, read_npz


def npy(array: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def claiming(shape: tuple, descr: str = "<f8", content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


@pytest.mark.parametrize("array", [
    np.arange(24).reshape(2, 3, 4), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.empty((0, 5), np.float16),
    np.array(3, np.int32), np.array([b"a", b"longer"]), np.array([True, False]), np.arange(3, dtype=">i4"),
], ids=str)
def test_reads_what_numpy_wrote(tmp_path: Path, array):
    np.savez_compressed(tmp_path / "a.npz", first=array, second=array)
    np.save(tmp_path / "a.npy", array)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == {"first", "second"}
    for read in (*found.values(), read_npy(tmp_path / "a.npy")):
        assert read.dtype == array.dtype and np.array_equal(read, array)


@pytest.mark.parametrize(("content", "named"), [
    (b"", "magic"), (b"hello", "magic"),
    (claiming((10**15,)), "holds 0 bytes of numbers, its header says 8000000000000000"),
    (claiming((2**62, 2**62)), "its header says"), (claiming((-1,), content=bytes(8)), "has the shape"),
    (claiming((3,), content=bytes(25)), "holds 25 bytes"), (npy(np.array([{}]), allow_pickle=True), "object"),
    (npy(np.zeros(2, "i4,f4")), "only plain numbers"), (npy(np.zeros(2), version=(3, 0)), "version"),
    (b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"{'descr': [1" + b" " * 8, "header that cannot be read"),
])
def test_refuses_everything_else_without_taking_memory(content, named):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=named):
            parse_npy(content)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_archive_that_unpacks_to_too_much_or_holds_a_name_twice_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", claiming((1,), content=bytes(8)))
    content = bytearray((tmp_path / "bomb.npz").read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the unpacked size in the directory
    content[at : at + 4] = struct.pack("<I", LARGEST + 1)
    (tmp_path / "bomb.npz").write_bytes(content)
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_npz(tmp_path / "bomb.npz")
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        for name in ("a.npy", "a"):
            archive.writestr(name, npy(np.zeros(1)))
    with pytest.raises(ValueError, match="twice"):
        read_npz(tmp_path / "twice.npz")


def test_no_memory_for_the_packed_size_that_a_directory_claims(tmp_path: Path):
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(9))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.index(b"PK\x01\x02") + 20
    content[at : at + 4] = struct.pack("<I", 2**31)
    (tmp_path / "a.npz").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="shorter than its directory says"):
            read_npz(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_no_memory_for_the_one_number_of_an_empty_array():
    with pytest.raises(ValueError, match="its header says numbers of 2000000000"):
        parse_npy(claiming((0,), "|S2000000000"))
