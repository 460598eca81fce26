"""Sound files -> mono samples. Files are read to the end of their stream: a header may lie about its length.

Any format that libsndfile reads will do: WAV, FLAC, OGG, MP3, AIFF and so on. Everything that opens sound uses
:func:`read_sound`, so that a file has the same samples wherever it is used.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from fmuc import paths
from fmuc.errors import FmucError

RATES = (1000, 2_000_000)  # Hz; recordings of bats lie within
_BLOCK = 2**12  # samples decoded at a time: what a header claims allocates no more
_MP3_FRAME = 1152  # behind the last one there may be anything, and a block with an error is lost as a whole
_DENSEST = 1000  # samples per byte: three times what FLAC makes of silence
_UNKNOWN_LENGTH = 2**62  # frames and more: libsndfile's value for a stream
_OPEN_LENGTH = 0x7FFFF000  # bytes and more: what writers to a pipe put for a length that they do not know yet
# What libsndfile logs about sound that is shorter or longer than its header claims. A wrong size of a RIFF or FORM
# chunk is no loss: writers often forget to subtract the 8 bytes of its header ("riff" is W64's, "Riff size" RF64's).
_CLAIM = re.compile(r"^\s*(?:data|Data Size|SSND|BODY|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_XING = re.compile(rb"(?:Xing|Info)\0\0\0[\x01-\x0f]")  # in the first frame of an MP3 file: how many there are
_MP3_SLACK = 10_000  # samples that encoders add at both ends of an MP3 file
_STREAM_START = re.compile(rb"OggS\0\x02|fLaC[\0\x80]\0\0\x22")  # of OGG and FLAC
_NEVER_CLOSED = "never closed by its recorder: the header says no samples, read to the end of the file"


class SoundError(FmucError):
    """A file that is no usable sound; ``reason`` says why, without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{paths.relative(path)}: {reason}; replace the file or take it out of the data set")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)  # how a worker process hands it over


class Sound(NamedTuple):
    """A decoded file. ``samples`` float32 (L,): the mean of the channels, within ±1 unless the file holds floats.

    ``note`` says what is odd about the file, "" if nothing is; ``cut``: samples are missing.
    """

    samples: np.ndarray
    rate: int  # Hz
    channels: int
    subtype: str  # libsndfile's name of the encoding
    note: str = ""
    cut: bool = False


def read_sound(path: Path) -> Sound:
    """Decode a whole sound file. Raises :class:`SoundError` for one that cannot be used."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could block for ever
            raise SoundError(path, "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
        if not status.st_size:
            raise SoundError(path, "is empty (0 bytes)")
        with open(path, "rb", buffering=0) as file, np.errstate(all="ignore"):
            sound = _read(file)
    except FileNotFoundError:
        raise SoundError(path, "does not exist") from None
    except soundfile.LibsndfileError as error:
        raise SoundError(path, f"is not sound that libsndfile reads ({error.error_string.rstrip('.')})") from None
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise SoundError(path, f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not sound.samples.size:
        raise SoundError(path, "holds no samples")
    if not RATES[0] <= sound.rate <= RATES[1]:  # resampled, a few samples per second would become millions
        raise SoundError(path, f"has a sample rate of {sound.rate} Hz")
    if not np.isfinite(sound.samples).all():
        raise SoundError(path, "holds samples that are not finite")
    return sound


def read_audio(path: Path, sample_rate: int) -> np.ndarray:
    """Mono samples of a sound file at ``sample_rate`` Hz, resampled (soxr, high quality) if need be: float32 (L,).

    Raises :class:`SoundError` for a file that cannot be used.
    """
    sound = read_sound(path)
    if sound.rate == sample_rate:
        return sound.samples
    samples = soxr.resample(sound.samples, sound.rate, sample_rate, quality="HQ")
    if not samples.size:
        raise SoundError(path, f"is too short for a sample rate of {sample_rate} Hz")
    return samples


def wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """A 16-bit WAV file with these samples. Written by Python, it tells a full disk from other failures."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


class _Stream(soundfile.SoundFile):
    """A file to be decoded from begin to end: soundfile seeks after every block, which not every codec allows."""

    def seekable(self) -> bool:
        return False


def _read(file: BinaryIO) -> Sound:
    try:
        with _Stream(file.fileno(), closefd=False) as stream:
            if stream.format == "MP3":
                return _read_mp3(_content(file))
            sound = _decode(stream, os.fstat(file.fileno()).st_size)
    except soundfile.LibsndfileError:
        if repaired := _read_first_data_chunk(_content(file)):
            return repaired
        raise
    if not sound.samples.size:
        return _read_first_data_chunk(_content(file)) or sound
    if stream.format in ("OGG", "FLAC") and len(_STREAM_START.findall(_content(file))) > 1:
        return sound._replace(note="holds several streams: only the first is read")
    return sound


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _decode(stream: soundfile.SoundFile, size: int, *, exact: bool = True) -> Sound:
    """Decode to the end; ``size`` of the file in bytes. Without ``exact`` the header only estimates the length."""
    parts, count, damage = [], 0, ""
    mean = np.full(stream.channels, 1 / stream.channels, dtype=np.float32)
    longest = _MP3_FRAME if stream.format == "MP3" else _BLOCK
    while count < stream.frames:
        try:
            block = stream.read(min(longest, stream.frames - count), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            if not parts:
                raise
            damage = error.error_string.rstrip(".")
            break
        if not len(block):
            break
        parts.append(block @ mean)
        count += len(block)
        if count > max(_DENSEST * size, 2**26):
            raise ValueError(f"it unpacks to more than {_DENSEST} samples per byte")
    note, cut = _oddities(stream.extra_info) if exact else ("", False)
    if exact and count < stream.frames < _UNKNOWN_LENGTH:
        note, cut = f"cut short: {count:,} of the {stream.frames:,} samples of its header are there", True
    if damage:
        note, cut = f"damaged after {count:,} samples ({damage})", True
    samples = np.concatenate(parts or [np.empty(0, np.float32)])
    return Sound(samples, stream.samplerate, stream.channels, stream.subtype, note, cut)


def _oddities(log: str) -> tuple[str, bool]:
    """A note and whether samples are missing, from what libsndfile logged of a header."""
    sizes = [(int(claim), int(there)) for claim, there in _CLAIM.findall(log)]
    longest = max((claim for claim, there in sizes if claim > there + 8), default=0)
    if longest >= _OPEN_LENGTH:
        return "header of a stream, without a length: read to its end", False
    if longest:
        return "cut short: its header claims more samples than there are", True
    if "wasn't closed properly" in log or any(claim == 0 < there for claim, there in sizes):
        return _NEVER_CLOSED, False
    return "", False


class _Endless(io.BytesIO):
    """The bytes of an MP3 file that claim to be many more.

    Without a Xing header libsndfile estimates the length from the size of the file and the first frame, and decodes no
    further. With a size that is too large it decodes all that is there.
    """

    _at_end = False

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at_end = (offset, whence) == (0, 2)
        return super().seek(offset, whence)

    def tell(self) -> int:
        return super().tell() * (64 if self._at_end else 1)


def _read_mp3(content: bytes) -> Sound:
    content = content.partition(b"APETAGEX")[0] or content  # a tag behind the sound, which the decoder takes for damage
    if not _XING.search(content):
        with _Stream(_Endless(content)) as stream:
            return _decode(stream, len(content), exact=False)
    file = io.BytesIO(content)
    with _Stream(file) as stream:
        sound = _decode(stream, len(content))
    if len(content) - file.tell() > 1000:  # more than a tag: perhaps files were joined, and the first header stayed
        with _Stream(_Endless(_XING.sub(bytes(8), content))) as stream:
            joined = _decode(stream, len(content), exact=False)
        if len(joined.samples) > len(sound.samples) + _MP3_SLACK:
            return joined._replace(note="several MP3 files in one: all are read")
    return sound


def _read_first_data_chunk(content: bytes) -> Sound | None:
    """A WAV file up to the end of its first data chunk, its sizes set right; None for a file of another kind."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return None
    at, kind, length = 12, b"", 0
    while kind != b"data":
        at += length + length % 2
        if at + 8 >= len(content):
            return None
        kind, length = struct.unpack_from("<4sI", content, at)
        at += 8
    note = "more than one data chunk: only the first is read"
    if not length and struct.unpack_from("<I", content, 4)[0] + 8 <= at:
        length, note = len(content) - at, _NEVER_CLOSED
    chunk = content[at : at + length]
    header = content[8 : at - 4] + struct.pack("<I", len(chunk))
    wav = b"RIFF" + struct.pack("<I", len(header) + len(chunk)) + header + chunk
    with _Stream(io.BytesIO(wav)) as stream:
        return _decode(stream, len(content))._replace(note=note)
