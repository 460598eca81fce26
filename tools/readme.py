"""What the README and the pages beside it say in numbers, written from presets and shipped records, never typed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fmuc import claims, equal_quantity, paths, tables
from fmuc.evidence import Interval, verdict
from fmuc.experiments import LABELLED_ONLY, STUDIES, Preset, plan, presets, reproduced
from fmuc.figures import markdown
from fmuc.machinery.atomic import write_bytes
from fmuc.records import Record, available, load_all

README, RESULTS, DEVIATIONS = (paths.ROOT / name for name in ("README.md", "docs/results.md", "docs/deviations.md"))
PURPOSES = {"smoke": "tests", "mini": "a laptop (the default)", "long": "ten times mini's steps",
            "beyond": "studies beyond the paper", "paper": "a GPU"}
WORDS = {"contradicted": "no, less", "not decidable": "undecided", "holds": "yes"}


def pages(profile: str = "mini") -> dict[Path, str]:
    """The text of every page with its blocks as presets and shipped records say."""
    records = load_all(profile, "shipped")
    content = {README: {"answers": answers(profile, records), "cost": cost(profile, records), "profiles": profiles()},
               RESULTS: results(profile, records), DEVIATIONS: {"settings": settings()}}
    return {page: filled(page.read_text(encoding="utf-8"), blocks) for page, blocks in content.items()}


def answers(profile: str, records: Sequence[Record]) -> str:
    """One sentence for each question, what does not hold first, and the differences that they rest on."""
    names, helps = list(presets(profile)), claims.gain("FM", LABELLED_ONLY, "test")[0]
    own, long = _measures(profile, records), _measures("long", available("long", "shipped"))
    tests = {"FM − labelled part only, test": _gains(own, helps),
             "FMUC − FM, test": _gains(own, claims.TEST),
             "FMUC − FM, unlabelled": _gains(own, claims.UNLABELLED),
             "FMUC − FM, test, ten times the steps": _gains(long, claims.TEST)}
    gain, test, unlabelled, longer = (_verdicts(gains) for gains in tests.values())
    filters = {name: found for name in names
               if (found := equal_quantity.compare(records, name, presets(profile)[name].training.epochs))}
    tests |= {f"{text}, quality at equal quantity": {name: getattr(found, side) for name, found in filters.items()}
              for side, text in (("on_fm", "FMUC's score − softmax, FM's nets"),
                                 ("on_fmuc", "FMUC's score − softmax, FMUC's nets"),
                                 ("trained", "FMUC − FM's thresholds, trained"))}
    table = pd.DataFrame({name: {text: _points(gains.get(name)) for text, gains in tests.items()} for name in names})
    return "\n".join([
        f"- **Is FM more accurate than the labelled part alone?** On test files: {gain}.",
        f"- **Is FMUC more accurate than FM?** On test files: {test}; after ten times the steps: {longer}. On the "
        f"unlabelled files: {unlabelled}.",
        f"- **Is it a better filter, or only a stricter threshold?** {_filter(filters)}", "",
        markdown(table.rename_axis("difference in points"))])


def _measures(profile: str, records: Sequence[Record]) -> dict[str, claims.Measure]:
    """What decides a difference between rows, by data set."""
    return {name: claims.from_runs(tables.measured(records, name)) for name in presets(profile)}


def _gains(measures: Mapping[str, claims.Measure], difference: claims.Difference) -> dict[str, Interval]:
    """A difference by data set, where both rows were run."""
    found = {name: measure(difference.terms) for name, measure in measures.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def _verdicts(gains: Mapping[str, Interval]) -> str:
    """Each verdict with its data sets: ``no, less on nsynth-gm; undecided on fsdd, scenes-sim``."""
    names = {word: [name for name, interval in gains.items() if verdict(interval) == word] for word in WORDS}
    return "; ".join(f"{WORDS[word]} on {', '.join(found)}" for word, found in names.items() if found)


def _filter(found: Mapping[str, equal_quantity.Comparison]) -> str:
    """How many comparisons of FMUC's rule with a stricter threshold say what, and what the paper's Table I says."""
    if not found:
        return "Not compared yet."
    words = defaultdict(list)
    for name, comparison in found.items():
        for place, word in comparison.words.items():
            words[word].append(f"{place} of {name}")
    words.pop("not compared", None)
    counts = [f"{word} in {len(places)}" + (f" ({', '.join(places)})" if word in ("better", "worse") else "")
              for word, places in words.items()]
    shown = "" if "better" in words else "That it is a better filter is not shown here. "
    return (f"{shown}At equal quantity, FMUC's rule is, of {sum(map(len, words.values()))} comparisons with a stricter "
            f"threshold, {', '.join(counts)}." + "".join(map(equal_quantity.papers, found)))


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{claims.number(interval.mean, '+')} {claims.limits(interval.low, interval.high)}".strip()


def cost(profile: str, records: Sequence[Record]) -> str:
    """How long the shipped ones of the runs that ``reproduce`` trains took, and where to ask for this machine."""
    planned = {run.name for run in reproduced(profile)}
    seconds = [record.provenance["wall_seconds"] for record in records if record.run.name in planned]
    return (f"Most of the time is training. `make reproduce` trains {len(seconds)} of {profile}'s {len(records)} runs; "
            f"the shipped ones of these took {sum(seconds) / 120:,.0f} minutes on two cores, often with other work "
            "beside them. `python -m fmuc plan` measures a few steps and says how long all of them take on yours.")


def results(profile: str, records: Sequence[Record]) -> dict[str, str]:
    """Tables I and II and the claims, data set by data set."""
    parts: dict[str, list[str]] = {"table1": [], "table2": [], "equal_quantity": [], "claims": []}
    for name, preset in presets(profile).items():
        epochs = preset.training.epochs
        one, two = tables.table1(records, name, epochs), tables.table2(records, name)
        parts["table1"].append(markdown(tables.format_table1(one, name)))
        parts["table2"].append(markdown(tables.format_table2(two, name).T.rename_axis("method")))
        parts["equal_quantity"].append(equal_quantity.conclusion(records, name, epochs) or f"{tables.title(name)}: –")
        rows = [{"§": c.section, "claim": c.text, "in our runs": c.verdict, "ours": c.ours}
                for c in tables.claims(records, name, epochs)]
        verdicts = markdown(pd.DataFrame(rows).set_index("§"))
        parts["claims"].append(f"{tables.title(name)}:\n\n{verdicts}")
    return {**{key: "\n\n".join(texts) for key, texts in parts.items()}, "studies": studies((profile, *STUDIES))}


def studies(profiles: Sequence[str]) -> str:
    """What the shipped runs cost, each on one core, by profile and data set."""
    rows = []
    for profile in profiles:
        records = available(profile, "shipped")
        for name in presets(profile):
            runs = [record for record in records if record.run.dataset == name]
            minutes = sum(run.provenance["wall_seconds"] for run in runs) / 60
            rows.append({"profile": f"`{profile}`", "data": name, "runs": str(len(runs)),
                         "core minutes": f"{minutes:.0f}"})
    return markdown(pd.DataFrame(rows).set_index("profile"))


def profiles() -> str:
    """The scales at which everything can be run."""
    rows = []
    for name, purpose in PURPOSES.items():
        runs = plan(name)
        steps = [run.training.epochs * run.training.iterations_per_epoch for run in runs]
        warm = max(run.training.warm_start for run in runs)
        rows.append({"profile": f"`{name}`", "for": purpose, "data": ", ".join(presets(name)), "runs": str(len(runs)),
                     "steps a run": " to ".join(f"{n:,}" for n in sorted({min(steps), max(steps)})),
                     "warm start": f"{warm:,}" if warm else "–"})
    return markdown(pd.DataFrame(rows).set_index("profile"))


def settings() -> str:
    """What mini does beside the paper's scale."""
    columns = {f"{profile}: {name}": _settings(preset)
               for profile in ("mini", "paper") for name, preset in presets(profile).items()}
    return markdown(pd.DataFrame(columns).rename_axis("setting"))


def _settings(preset: Preset) -> dict[str, str]:
    features, training, network, view = preset.features, preset.training, preset.network, preset.augmentation.strong
    return {
        "labelled share": f"{100 * preset.labelled_share:g} %",
        "sample rate in Hz": f"{features.sample_rate:,}",
        "window, hop in samples": f"{features.window:,}, {features.hop:,}",
        "patch, Mel bands x frames": f"{features.mel_bands} x {features.patch_frames}",
        "strong view: shift in time, in bands; noise; sharpening":
            f"{100 * view.shift_time:g} %, {100 * view.shift_mel:g} %; {view.noise:g}; {view.sharpen:g}",
        "stem: kernel, stride": "{}, {}".format(*network.stem),
        "widths (blocks) of the stages": f"{'-'.join(map(str, network.widths))} ({'-'.join(map(str, network.blocks))})",
        "batch, labelled + unlabelled": f"{training.labelled_batch} + {training.unlabelled_batch}",
        "batch without unlabelled examples": f"{training.supervised_batch}",
        "warm start in steps": f"{training.warm_start:,}",
        "steps of an epoch": f"{training.iterations_per_epoch}",
        "epochs of Table I, II": f"{training.epochs}, {preset.table_2_epochs}",
        "seeds": ", ".join(map(str, preset.seeds)),
    }


def filled(text: str, content: Mapping[str, str]) -> str:
    """``text`` with what stands between the markers of each block replaced; ``ValueError`` where they are missing."""
    for name, block in content.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the text has no markers for {name!r}")
        text = pattern.sub(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)
    return text


def update(profile: str = "mini") -> None:
    """Rewrite the blocks of all pages, once all of them are known."""
    for page, text in pages(profile).items():
        write_bytes(page, text.encode())
