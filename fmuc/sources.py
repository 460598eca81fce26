"""Where the real data sets come from: archives with their sizes, sums and licences, as data."""

from __future__ import annotations

from dataclasses import dataclass

from fmuc.tut2017 import DEVELOPMENT, EVALUATION


@dataclass(frozen=True)
class Archive:
    """One published file: its ``size`` in bytes and the MD5 sums that are accepted."""

    name: str
    urls: tuple[str, ...]
    size: int
    md5: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Archives that together unpack into ``folder``, which holds ``index`` when it is whole.

    ``sound_files`` is the published count; ``unpacked_bytes`` an upper bound, for the disk and against zip bombs.
    """

    name: str
    folder: str
    index: str
    archives: tuple[Archive, ...]
    sound_files: int
    unpacked_bytes: int

    @property
    def archive_bytes(self) -> int:
        return sum(archive.size for archive in self.archives)

    @property
    def max_members(self) -> int:
        return 2 * self.sound_files + 1000  # macOS adds an entry to each file


@dataclass(frozen=True)
class Source:
    """A data set that can be fetched. If ``confirm``, its licence must be agreed to before it is."""

    name: str
    title: str
    licence: str
    licence_url: str
    terms: str
    confirm: bool
    citation: str
    parts: tuple[Part, ...]


def _bound(files: int, file_bytes: int) -> int:
    return int(files * file_bytes * 1.02) + 64_000_000  # index (600 bytes a note), lists, documentation


def _nsynth(split: str, notes: int, size: int, md5: str) -> Part:
    name = f"nsynth-{split}.jsonwav.tar.gz"
    host = "download.magenta.tensorflow.org/datasets/nsynth"
    urls = (f"https://storage.googleapis.com/{host}/{name}", f"http://{host}/{name}")
    return Part(split, f"nsynth-{split}", "examples.json", (Archive(name, urls, size, (md5,)),), notes,
                _bound(notes, 128_044))


def _tut(name: str, folder: str, index: str, record: int, clips: int, files: dict[str, tuple]) -> Part:
    def archive(suffix: str, size: int, *md5: str) -> Archive:
        file = f"{folder}.{suffix}.zip"
        return Archive(file, (f"https://zenodo.org/records/{record}/files/{file}",), size, md5)

    return Part(name, folder, index, tuple(archive(suffix, *row) for suffix, row in files.items()), clips,
                _bound(clips, 2_646_044))


NSYNTH = Source(
    name="nsynth",
    title="NSynth",
    licence="Creative Commons Attribution 4.0 International (CC BY 4.0)",
    licence_url="https://creativecommons.org/licenses/by/4.0/",
    terms="You may use, change and pass on the sounds, also commercially, if you name the authors and the licence.",
    confirm=False,
    citation="J. Engel, C. Resnick, A. Roberts, S. Dieleman, M. Norouzi, D. Eck, K. Simonyan: Neural Audio Synthesis "
             "of Musical Notes with WaveNet Autoencoders. ICML 2017.",
    parts=(
        _nsynth("train", 289_205, 23_815_298_079, "fde6665a93865503ba598b9fac388660"),
        _nsynth("valid", 12_678, 1_068_767_009, "87e94a00a19b6dbc99cf6d4c0c0cae87"),
        _nsynth("test", 4_096, 349_501_546, "5e6f8719bf7e16ad0a00d518b78af77d"),
    ),
)
TUT2017 = Source(
    name="tut2017",
    title="TUT Acoustic Scenes 2017",
    licence="end-user licence agreement (EULA) of Tampere University of Technology",
    licence_url="https://zenodo.org/records/400515",
    terms="Only non-commercial use is allowed; whatever you publish with it must cite the data set; the recordings "
          "must not be passed on to others, in whole or in part.",
    confirm=True,
    citation="A. Mesaros, T. Heittola, T. Virtanen: TUT Database for Acoustic Scene Classification and Sound Event "
             "Detection. EUSIPCO 2016.",
    parts=(
        _tut("development", DEVELOPMENT, "meta.txt", 400515, 4_680, {
            "doc": (54_796, "2065495aaf3f1103e795c9899e2af1df"),
            "meta": (104_321, "9007fd4772d816590c5db5f5e9568f5d"),
            "error": (1_432, "802c700b021769e52a2c1e3b9c117a1b"),
            "audio.1": (1_071_445_248, "251325a9afaaad0326ad1c57f57d514a"),
            "audio.2": (1_073_453_613, "c26861e05147dc319b4250eb103d9d99"),
            "audio.3": (1_073_077_819, "a4815775f8a5e629179726ee4cd4f55a"),
            "audio.4": (1_072_822_038, "1732b03afe8c53ef8bba80ba14766e57"),
            "audio.5": (1_072_644_652, "611be754a0c951185c6ae4b7643c19a0"),
            "audio.6": (1_072_667_888, "165a201db800d3ea76fce5a9c2bd97d7"),
            "audio.7": (1_073_417_661, "c7d79db84264401c0f8680dcc36013ad"),
            "audio.8": (1_072_381_222, "35043f25123439392338c790494c7a19"),
            "audio.9": (1_072_087_738, "0805dcf5d8e6871dc9610182b2efb93a"),
            "audio.10": (1_046_262_120, "5df83a191295a04e290b125c634e13e7"),
        }),
        # Two sums: public libraries list another one for three of these files, with the same number of bytes.
        _tut("evaluation", EVALUATION, "evaluation_setup/evaluate.txt", 1040168, 1_620, {
            "doc": (53_687, "53709a07416ea3b617c02fcf67dbeb9c", "47bbdc0614b468d2bfadbc49e561a320"),
            "meta": (4_473, "200eee9493e8044403e1326e3d05cfde", "e006cfec14a49dd79a6ab8f8d5b1c5e6"),
            "audio.1": (1_071_856_687, "3d6dda4445871e9544e0fefe7d14c7d9", "5d97dea8461baec8027ae4a0c2b18d4b"),
            "audio.2": (1_073_362_972, "4085ef5fa286f2169074993a4e405953"),
            "audio.3": (1_071_521_152, "cac432579e7cf2dff0aec7aaed248956"),
            "audio.4": (382_756_463, "664bf09c3d24bd26c6b587f1d709de36"),
        }),
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in (NSYNTH, TUT2017)}


def licence_notice(source: Source) -> str:
    """What to show before a data set is fetched: licence, terms in short, what to cite (a few lines)."""
    binding = "\nThis is a summary; the agreement itself is binding. Read it first." if source.confirm else ""
    return (f"{source.title}: {source.licence}\n{source.licence_url}\n{source.terms}{binding}\n"
            f"Please cite: {source.citation}")
