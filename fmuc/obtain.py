"""Fetch, verify and unpack the archives of a published data set, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from fmuc import archives, paths
from fmuc.download import PATIENCE, Patience, arrived, disk_error, fetch, mismatch, part_of
from fmuc.errors import FmucError
from fmuc.sources import SOURCES, Archive, Part, Source

ARCHIVES = ".archives"  # folder of the downloads in a data set's folder


@dataclass(frozen=True)
class Report:
    """What :func:`obtain` did: parts ``obtained`` now and ``present`` before, bytes received over the network."""

    source: str
    obtained: tuple[str, ...]
    present: tuple[str, ...]
    downloaded: int


def obtain(source: Source | str, root: Path, *, parts: Sequence[str] | None = None, archives_from: Path | None = None,
           keep_archives: bool = False, progress: bool = True, patience: Patience = PATIENCE) -> Report:
    """Get a data set's ``parts`` (default: all) into ``root``; those that are there already cost nothing.

    Archives are downloaded into ``root/.archives`` (see :func:`fmuc.download.fetch`: an interrupted call is gone on
    with) and removed when their part is in place unless ``keep_archives``; or they are read from the folder
    ``archives_from``, which is left as it is. All archives of a part are verified before one is unpacked; a part's
    folder appears whole or not at all. Of two calls at once the second waits. To have the licence confirmed is the
    caller's task.
    Raises :class:`FmucError` for an unknown name or part, too little free disk (checked before anything is done) and
    archives that cannot be had, have a wrong sum, or do not hold what they should.
    """
    source, root = _known(source), Path(root).absolute()
    wanted = _wanted(source, parts)
    try:
        if _missing(root, wanted):  # else no lock: a second call also works where nothing may be written
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root.with_name(f".{root.name}.lock")):
                missing = _missing(root, wanted)
                job = _Job(root, archives_from, keep_archives, progress, patience)
                downloaded = job.run(missing)
                return Report(source.name, _names(missing), _names(p for p in wanted if p not in missing), downloaded)
    except OSError as error:
        raise disk_error(root, error) from None
    return Report(source.name, (), _names(wanted), 0)


def _known(source: Source | str) -> Source:
    if isinstance(source, str):
        if source not in SOURCES:
            raise FmucError(f"no download is known for {source!r}: known are {', '.join(SOURCES)}")
        return SOURCES[source]
    return source


def _wanted(source: Source, names: Sequence[str] | None) -> list[Part]:
    known = _names(source.parts)
    for name in names or ():
        if name not in known:
            raise FmucError(f"{source.name}: unknown part {name!r}: known are {', '.join(known)}")
    return [part for part in source.parts if names is None or part.name in names]


def _names(parts: Iterable[Part]) -> tuple[str, ...]:
    return tuple(part.name for part in parts)


def _missing(root: Path, parts: Sequence[Part]) -> list[Part]:
    missing = []
    for part in parts:
        folder = root / part.folder
        if not (folder.exists() or folder.is_symlink()):
            missing.append(part)
        elif not (folder / part.index).is_file():
            raise FmucError(f"{paths.relative(folder)}: is there but has no {part.index}: remove it or move it away, "
                            "then run the command again")
    return missing


@dataclass(frozen=True)
class _Job:
    """The options of one call of :func:`obtain`; its caller holds the lock."""

    root: Path
    archives_from: Path | None
    keep_archives: bool
    progress: bool
    patience: Patience

    def run(self, parts: Sequence[Part]) -> int:
        """Get the parts, which are missing; bytes downloaded."""
        for part in parts:  # left by a call that was killed
            if self._staging(part).exists():
                shutil.rmtree(self._staging(part))
        if self.archives_from is not None:
            self._require_archives(parts)
        self._require_space(parts)
        downloaded = 0
        for part in parts:
            downloaded += sum(self._verified(archive) for archive in part.archives)
            self._unpack(part)
            self._tidy(part)
        return downloaded

    def _file(self, archive: Archive) -> Path:
        return (self.archives_from or self.root / ARCHIVES) / archive.name

    def _staging(self, part: Part) -> Path:
        return self.root / f".{part.folder}.unpacking"

    def _require_archives(self, parts: Sequence[Part]) -> None:
        names = [archive.name for part in parts for archive in part.archives if not self._file(archive).is_file()]
        if names:
            raise FmucError(f"{paths.relative(self.archives_from)}: has no {', '.join(names)}: put what is missing "
                            "there, take fewer --parts, or leave out --from to download")

    def _require_space(self, parts: Sequence[Part]) -> None:
        needed = sum(part.unpacked_bytes for part in parts)
        if self.archives_from is None:
            needed += sum(archive.size - arrived(self._file(archive), archive.size)
                          for part in parts for archive in part.archives)
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise FmucError(f"{paths.relative(self.root)}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB "
                            "are free: free some, move the data with FMUC_DATA, or take fewer --parts")

    def _verified(self, archive: Archive) -> int:
        """Make sure that the archive is there and right; bytes downloaded for it."""
        file = self._file(archive)
        if self.archives_from is None:
            return fetch(archive.urls, file, size=archive.size, md5=archive.md5, progress=self.progress,
                         patience=self.patience)
        problem = mismatch(file, size=archive.size, md5=archive.md5, progress=self.progress)
        if problem is not None:
            raise FmucError(f"{paths.relative(file)}: {problem}: download it again from {archive.urls[0]}, or leave "
                            "out --from")
        return 0

    def _unpack(self, part: Part) -> None:
        staging = self._staging(part)
        try:
            staging.mkdir()
            archives.unpack([self._file(archive) for archive in part.archives], staging, progress=self.progress,
                            max_bytes=part.unpacked_bytes, max_members=part.max_members)
            if not (staging / part.folder / part.index).is_file():
                names = ", ".join(archive.name for archive in part.archives)
                raise FmucError(f"{names}: no {part.folder}/{part.index} in what was unpacked: these are not the "
                                "published archives; delete and download them again")
            os.replace(staging / part.folder, self.root / part.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _tidy(self, part: Part) -> None:
        """Remove what was downloaded for a part that is in place."""
        folder = self.root / ARCHIVES
        for archive in part.archives:
            part_of(folder / archive.name).unlink(missing_ok=True)
            if self.archives_from is None and not self.keep_archives:
                (folder / archive.name).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
