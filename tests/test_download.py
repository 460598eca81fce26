"""Downloads from a local server that breaks connections, knows no ranges, and lies about sizes and contents."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from local_server import LocalServer, Served
from tqdm import tqdm

from fmuc import fetch as download
from fmuc.errors import FmucError
from fmuc.fetch import Patience, arrived, fetch, mismatch, part_of

QUICK = Patience(attempts=3, pause=0.001, longest_pause=0.002, timeout=0.3)
pytestmark = pytest.mark.usefixtures("direct")
CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "downloads" / "sounds.tar.gz"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def get(path, *urls, content=CONTENT, size=None, sums=None, **options):
    return fetch(urls, path, size=size or len(content), md5=sums or md5(content), progress=False,
                 **{"patience": QUICK, **options})


def refused(path, *urls, **options) -> str:
    """The one clear line of a download that fails; the target's name never appears."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(FmucError) as caught:
        get(path, *urls, **options)
    assert (path.read_bytes() if path.exists() else None) == before
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


# --- what must work ---


def test_a_file_is_downloaded_once(server, path):
    url = server.add("a", CONTENT)
    assert get(path, url) == len(CONTENT)
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == [path.name]
    assert get(path, url) == 0
    assert server.ranges() == [None]
    assert server.encodings == {"identity"}


@pytest.mark.parametrize("wrong", [b"", CONTENT[:-1] + b"?", CONTENT + b"?"])
def test_another_file_under_the_name_is_replaced(server, path, wrong):
    path.parent.mkdir()
    path.write_bytes(wrong)
    get(path, server.add("a", CONTENT))
    assert path.read_bytes() == CONTENT


def test_one_of_several_sums_is_enough(server, path):
    url = server.add("a", CONTENT)
    get(path, url, sums=("0" * 32, md5(CONTENT)))
    assert path.read_bytes() == CONTENT


def test_a_broken_transfer_goes_on_at_the_first_missing_byte(server, path):
    served = Served(CONTENT, breaks=[1, 99_999, 200_000 - 1])
    assert get(path, server.add("a", served)) == len(CONTENT)  # no byte twice
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=1-", "bytes=100000-", "bytes=299999-"]


def test_attempts_count_only_while_nothing_new_arrives(server, path):
    served = Served(CONTENT, breaks=[10_000] * 25)
    assert get(path, server.add("a", served), patience=Patience(2, 0.0, 0.0, 1.0)) == len(CONTENT)
    assert len(server.seen) == 26


def test_a_part_of_an_earlier_call_is_gone_on_with(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:123_456])
    assert get(path, server.add("a", CONTENT)) == len(CONTENT) - 123_456
    assert path.read_bytes() == CONTENT and server.ranges() == ["bytes=123456-"]


def test_a_complete_part_needs_no_request(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT)
    assert get(path, server.add("a", CONTENT)) == 0
    assert path.read_bytes() == CONTENT and not server.seen


def test_a_part_that_is_too_long_is_dropped(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT + b"?")
    get(path, server.add("a", CONTENT))
    assert path.read_bytes() == CONTENT and server.ranges() == [None]


def test_a_server_without_ranges_starts_again_cleanly(server, path):
    served = Served(CONTENT, ranges=False, breaks=[250_000])
    assert get(path, server.add("a", served)) == 250_000 + len(CONTENT)
    assert path.read_bytes() == CONTENT and server.ranges() == [None, "bytes=250000-"]


def test_a_server_that_always_starts_again_and_breaks_is_given_up(server, path):
    message = refused(path, server.add("a", Served(CONTENT, ranges=False, breaks=[100_000] * 50)))
    assert "attempt 3 of 3" in message and len(server.seen) == 3
    assert part_of(path).read_bytes() == CONTENT[:100_000]


@pytest.mark.parametrize("codes", [[503], [429, 500], [408, 502]])
def test_errors_that_pass_are_waited_for(server, path, codes):
    get(path, server.add("a", Served(CONTENT, codes=list(codes))))
    assert path.read_bytes() == CONTENT and len(server.seen) == len(codes) + 1


def test_the_pause_that_a_server_asks_for_is_kept_but_bounded(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pauses.append))
    served = Served(CONTENT, codes=[429, 503], headers={"Retry-After": "7"})
    get(path, server.add("a", served), patience=Patience(4, 1.0, 100.0, 1.0))
    assert pauses == [7.0, 7.0]
    path.unlink()
    served.codes = [429, 429, 429]
    served.headers = {"Retry-After": "Sun, 22 Nov 2026 00:00:00 GMT"}
    get(path, server.add("a", served), patience=Patience(4, 1.0, 2.0, 1.0))
    assert pauses[2:] == [1.0, 2.0, 2.0]


def test_a_silent_server_is_asked_again(server, path):
    served = Served(CONTENT, breaks=[50_000], stalls=True)
    assert get(path, server.add("a", served)) == len(CONTENT)
    assert path.read_bytes() == CONTENT and server.ranges() == [None, "bytes=50000-"]


def test_a_whole_file_counts_though_the_server_does_not_hang_up(server, path):
    served = Served(CONTENT, breaks=[len(CONTENT)], stalls=True, no_length=True)
    assert get(path, server.add("a", served)) == len(CONTENT)
    assert path.read_bytes() == CONTENT and len(server.seen) == 1


def test_without_a_stated_length_a_short_answer_is_gone_on_with(server, path):
    get(path, server.add("a", Served(CONTENT, no_length=True, breaks=[77])))
    assert path.read_bytes() == CONTENT and server.ranges() == [None, "bytes=77-"]


def test_the_next_address_goes_on_where_the_first_one_failed(server, path):
    first = server.add("a", Served(CONTENT, breaks=[1000, 0, 0, 0, 0]))
    second = server.add("b", CONTENT)
    assert get(path, first, second) == len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert server.seen[-1] == ("/b", "bytes=1000-")


def test_a_missing_file_is_taken_from_the_next_address(server, path):
    missing, url = server.add("a", Served(CONTENT, codes=[404])), server.add("b", CONTENT)
    get(path, missing, url)
    assert [p for p, _ in server.seen] == ["/a", "/b"] and path.read_bytes() == CONTENT


def test_redirections_are_followed_with_the_range(server, path):
    target = server.add("target", CONTENT)
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:5])
    get(path, server.add("a", Served(b"", codes=[302], headers={"Location": target})))
    assert path.read_bytes() == CONTENT and server.seen[-1] == ("/target", "bytes=5-")


def test_bytes_are_stored_as_they_are_though_called_compressed(server, path):
    packed = gzip.compress(CONTENT)
    served = Served(packed, headers={"Content-Encoding": "gzip"}, breaks=[1000])
    get(path, server.add("a", served), content=packed)
    assert path.read_bytes() == packed


def test_a_range_of_a_file_of_unstated_size_is_taken_if_its_length_fits(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:1000])
    assert "announces 299,001 bytes where 299,000" in refused(path, server.add("a", Served(CONTENT + b"?",
                                                                                       hides_total=True)))
    assert get(path, server.add("a", Served(CONTENT, hides_total=True))) == 299_000
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("shift", [1, -1])
def test_a_range_that_starts_elsewhere_is_not_appended(server, path, shift):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:1000])
    get(path, server.add("a", Served(CONTENT, shift=shift)))
    assert path.read_bytes() == CONTENT and server.ranges() == ["bytes=1000-", None]


def test_a_range_that_cannot_be_given_starts_the_transfer_again(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:1000])
    get(path, server.add("a", Served(CONTENT, codes=[416])))
    assert path.read_bytes() == CONTENT and server.ranges() == ["bytes=1000-", None]


# --- what must be refused ---


def test_wrong_bytes_are_removed_and_both_sums_named(server, path):
    wrong = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    url = server.add("a", wrong)
    message = refused(path, url)
    assert md5(wrong) in message and md5(CONTENT) in message and "--from FOLDER" in message and "again" in message
    assert not list(path.parent.iterdir())
    server.add("a", CONTENT)
    get(path, url)
    assert path.read_bytes() == CONTENT


def test_a_resumed_file_is_checked_from_its_first_byte(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(b"?" + CONTENT[1:1000])
    assert "md5" in refused(path, server.add("a", CONTENT))
    assert not part_of(path).exists()


@pytest.mark.parametrize("size", [7, 299_999, 300_001])
def test_another_length_is_refused_before_a_byte_is_read(server, path, size):
    message = refused(path, server.add("a", CONTENT), size=size)
    assert f"{len(CONTENT):,}" in message and f"{size:,}" in message and len(server.seen) == 1
    assert not part_of(path).exists()


def test_another_length_of_the_rest_is_refused_and_the_part_kept(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:1000])
    message = refused(path, server.add("a", CONTENT + b"?"))
    assert "300,001" in message and "1,000 of 300,000 bytes" in message
    assert part_of(path).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("start", [0, 1000])
def test_a_server_that_sends_too_much_is_stopped(server, path, start):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:start])
    endless = Served(CONTENT + bytes(5_000_000), no_length=True, ranges=start == 0)
    message = refused(path, server.add("a", endless))
    assert "more than the expected 300,000 bytes" in message
    assert not part_of(path).exists() and len(server.seen) == 1


def test_a_length_that_is_too_long_is_a_broken_transfer_in_the_end(server, path):
    assert "300,009" in refused(path, server.add("a", Served(CONTENT, length=300_009)))


def test_a_missing_file_names_every_address_and_the_remedy(server, path):
    urls = [server.add(name, Served(b"", codes=[code] * 9)) for name, code in (("a", 404), ("b", 403), ("c", 503))]
    message = refused(path, *urls)
    assert all(url in message for url in urls) and "--from FOLDER" in message
    assert "404" in message and "403" in message and "503" in message
    assert len(server.seen) == 1 + 1 + QUICK.attempts


def test_no_connection_is_one_clear_line(path):
    with LocalServer() as server:
        url = server.add("a", CONTENT)
    message = refused(path, url)
    assert "connection failed" in message and "attempt 3 of 3" in message and "Traceback" not in message


def test_an_address_that_is_none_is_one_clear_line(path):
    assert "MissingSchema" in refused(path, "no-address")


def test_redirections_without_end_are_refused(server, path):
    url = server.add("a", Served(b"", codes=[302] * 99))
    server.files["/a"].headers["Location"] = url
    assert "TooManyRedirects" in refused(path, url)


# --- interrupts and disks ---


def test_an_interrupt_keeps_the_part_and_the_next_call_goes_on(server, path, monkeypatch):
    class Interrupted(tqdm):
        def update(self, n=1):
            if part_of(path).exists() and server.files["/a"].stalls and n:
                raise KeyboardInterrupt
            super().update(n)

    served = Served(CONTENT, breaks=[100_000], stalls=True)
    url = server.add("a", served)
    monkeypatch.setattr(download, "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(path, url)
    kept = part_of(path).stat().st_size
    assert 0 < kept <= 100_000 and part_of(path).read_bytes() == CONTENT[:kept] and not path.exists()
    assert arrived(path, len(CONTENT)) == kept
    served.stalls = False
    assert get(path, url) == len(CONTENT) - kept
    assert path.read_bytes() == CONTENT and server.ranges() == [None, f"bytes={kept}-"]


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permissions")])
def test_a_disk_that_takes_no_more_is_one_clear_line(server, path, monkeypatch, number, expected):
    class Full(io.FileIO):
        def write(self, chunk):
            super().write(chunk[:100])
            raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(download, "open", Full, raising=False)
        message = refused(path, server.add("a", CONTENT))
    assert expected in message
    assert part_of(path).read_bytes() == CONTENT[:100]
    assert get(path, server.add("a", CONTENT)) == len(CONTENT) - 100
    assert path.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_one_clear_line(server, path):
    path.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(FmucError, match=r"downloads: cannot be read or written \(.+\): check the folder"):
        get(path, server.add("a", CONTENT))
    assert not server.seen


def test_progress_starts_with_what_is_there(server, path, monkeypatch):
    bars = []

    class Recorded(tqdm):
        def __init__(self, **options):
            super().__init__(**options, file=io.StringIO())
            bars.append(self)

    monkeypatch.setattr(download, "tqdm", Recorded)
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:1000])
    url = server.add("a", Served(CONTENT, ranges=False, breaks=[2000]))
    fetch([url], path, size=len(CONTENT), md5=md5(CONTENT), patience=QUICK)
    assert (bars[0].initial, bars[0].n, bars[0].total) == (1000, len(CONTENT), len(CONTENT))


# --- small parts ---


def test_mismatch_names_size_or_sum(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert mismatch(path, size=len(CONTENT), md5=md5(CONTENT)) is None
    assert "has 300,000 bytes where 5 are" in mismatch(path, size=5, md5=md5(CONTENT))
    assert f"{md5(CONTENT)} instead of aa or bb" in mismatch(path, size=len(CONTENT), md5=("aa", "bb"))


@pytest.mark.parametrize(("whole", "part", "expected"), [
    (None, None, 0), (10, None, 10), (9, None, 0), (11, 3, 3), (None, 10, 10), (None, 11, 0), (10, 3, 10)])
def test_arrived_counts_what_need_not_be_fetched(path, whole, part, expected):
    path.parent.mkdir()
    for file, size in ((path, whole), (part_of(path), part)):
        if size is not None:
            file.write_bytes(bytes(size))
    assert arrived(path, 10) == expected


def test_default_patience_ends(server, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pauses.append))
    refused(path, server.add("a", Served(b"", codes=[500] * 99)), patience=Patience())
    assert pauses == [1, 2, 4, 8, 16]
