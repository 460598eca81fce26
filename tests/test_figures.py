"""Figures: what is drawn is what the data say; files are byte-stable and complete. All records are fabricated."""

from __future__ import annotations

import base64
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pictures as diagrams
import pytest
from matplotlib.text import Text
from synthetic_records import CLASSES, synthetic_plan, synthetic_record, without_truth

from fmuc import analysis, experiments, figures, tables
from fmuc.datasets import LABELS as SCENES

NAME = "nsynth-gm"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """No test writes into the real figures; every figure is closed, and its text was large enough."""
    monkeypatch.setenv("FMUC_FIGURES", str(tmp_path / "figures"))
    mpl.use("Agg")
    yield tmp_path / "figures" / "mini-own"
    texts = [text for number in plt.get_fignums() for text in plt.figure(number).findobj(Text) if text.get_visible()]
    plt.close("all")
    assert min((text.get_fontsize() for text in texts if text.get_text()), default=6) >= 6  # points: can be read


@pytest.fixture(scope="module")
def records():
    return synthetic_plan(NAME, epochs=12)


def by_gid(ax):
    return {line.get_gid(): line for line in ax.lines if line.get_gid()}


def overlapping(ax, texts):
    """Pairs of texts whose boxes overlap on the drawn figure."""
    ax.figure.draw_without_rendering()
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts if text.get_text()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, two in boxes[i + 1 :] if one.overlaps(two)]


# --- curves ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("metric", ["quality", "quantity"])
def test_curves_draw_every_seed_and_the_mean(records, metric):
    _, ax = figures.figure()
    assert getattr(figures, f"{metric}_curves")(ax, records, NAME) is ax
    for variant in ("FM", "FMUC"):
        runs = [record.history[metric] * 100 for record in records if record.run.variant == variant]
        lines = [line for line in ax.lines if line.get_color() == figures.COLOURS[variant] and line.get_gid() is None]
        *seeds, mean = lines
        assert len(seeds) == len(runs) == 3
        for line, run in zip(seeds, runs, strict=True):
            assert line.get_xdata() == pytest.approx(np.arange(1, 13)) and line.get_ydata() == pytest.approx(run)
            assert line.get_linewidth() < mean.get_linewidth()
        assert mean.get_ydata() == pytest.approx(np.mean(runs, axis=0))
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == f"pseudo-label {metric} (%)"


def test_published_values_are_marked_as_the_papers(records):
    _, ax = figures.figure()
    figures.quality_curves(ax, records, NAME)
    marks = {gid: line.get_ydata()[0] for gid, line in by_gid(ax).items()}
    assert marks == {"paper FM start": 75, "paper FM end": 78.4, "paper FMUC end": 86.7}
    assert all(line.get_linestyle() == ":" for line in by_gid(ax).values())
    low, high = ax.get_ylim()
    assert all(low < value < high for value in marks.values())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["FM (n=3)", "FMUC (n=3)", "paper (NSynth)"]
    assert ax.get_title() == "nsynth-gm (stand-in)"


def test_a_quality_that_nobody_knows_is_drawn_from_validation_files():
    records = [without_truth(synthetic_record("FM", [0.5] * 6, [0.2] * 6, dataset="birds", seed=seed),
                             {2: (0.6, 0.3), 4: (0.7 + 0.1 * seed, 0.4)}) for seed in (0, 1)]
    _, axes = figures.figure(columns=2)
    figures.quality_curves(axes[0], records, "birds", epochs=6)
    mean = axes[0].lines[-1]
    assert mean.get_xydata() == pytest.approx(np.array([[2, 60], [4, 75]]))
    assert axes[0].get_ylabel() == "quality on validation files (%)" and axes[0].get_xlim() == (1, 6)
    figures.quantity_curves(axes[1], records, "birds")  # is known in any case
    assert axes[1].lines[-1].get_ydata() == pytest.approx(np.full(6, 20))
    assert axes[1].get_ylabel() == "pseudo-label quantity (%)"


def test_nothing_run_draws_only_the_paper(own_folder):
    fig, axes = figures.figure("double", columns=3)
    figures.quality_curves(axes[0], [], NAME)
    figures.table1_plane(axes[1], tables.table1([], NAME, 12), NAME)
    figures.table2_points(axes[2], tables.table2([], NAME), NAME)
    figures.save_figure(fig, "empty", "mini", alt="nothing but the paper")
    assert all(gid.startswith("paper") or not len(line.get_ydata()) for ax in axes for gid, line in by_gid(ax).items())


# --- confusion matrix ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("classes", [CLASSES, SCENES], ids=["notes", "scenes"])
def test_confusion_heatmap_shows_every_share(classes):
    count, names = len(classes), [name.replace("_", " ") for name in classes]
    shares = np.random.default_rng(0).dirichlet(np.full(count, 0.2), count)
    shares[3] = np.nan  # a class without pseudo-label
    shares[0] = np.eye(count)[0]
    fig, axes = figures.figure("double", columns=2, aspect=1.1)
    for ax in axes:
        assert figures.confusion_heatmap(ax, shares, classes) is ax
    fig.draw_without_rendering()
    for ax in axes:
        drawn = ax.collections[0].get_array()
        assert np.allclose(np.ma.filled(drawn.reshape(count, count), np.nan), 100 * shares, equal_nan=True)
        expected = [f"{100 * value:.0f}" for value in shares[~np.isnan(shares)] if value >= 0.005]
        assert sorted(text.get_text() for text in ax.texts) == sorted(expected)
        assert ax.get_xlabel() == "pseudo-label" and [text.get_text() for text in ax.get_xticklabels()] == names
        width, height = (part / count for part in ax.get_window_extent().size)
        boxes = [text.get_window_extent() for text in ax.texts]
        assert all(box.width < width and box.height < height for box in boxes)
    assert [text.get_text() for text in axes[0].get_yticklabels()] == names and not axes[1].get_yticklabels()
    assert axes[0].get_ylabel() == "true class" and not overlapping(axes[0], axes[0].get_yticklabels())
    assert len(fig.axes) == 3  # one colour bar a row


# --- tables as pictures ----------------------------------------------------------------------------------------------

def test_table1_plane_draws_ours_filled_and_the_paper_hollow(records):
    table = tables.table1(records, NAME, 12)
    fig, ax = figures.figure(aspect=0.85)
    assert figures.table1_plane(ax, table, NAME) is ax
    drawn = by_gid(ax)
    for variant in experiments.TABLE_1:
        for gid, source, fill in ((variant, "mean", "full"), (f"paper {variant}", "paper", "none")):
            x, y = table.loc[variant, ("quantity", source)], table.loc[variant, ("quality", source)]
            assert drawn[gid].get_xydata() == pytest.approx(np.array([[x, y]]))
            assert drawn[gid].get_fillstyle() == fill and drawn[gid].get_color() == figures.colour(variant)
    figures.row_legend(fig, table.index)
    (legend,) = fig.legends
    assert [(text.get_text(), mark.get_marker(), mark.get_color())
            for text, mark in zip(legend.get_texts(), legend.legend_handles, strict=True)] == [
        (row, drawn[row].get_marker(), drawn[row].get_color()) for row in experiments.TABLE_1]


def test_table2_points_show_every_seed(records):
    table = tables.table2(records, NAME)
    _, ax = figures.figure()
    assert figures.table2_points(ax, table, NAME) is ax
    drawn = by_gid(ax)
    for (part, variant), row in table.iterrows():
        assert drawn[f"{part} {variant}"].get_ydata() == pytest.approx(np.array(row["seeds"]))
    means = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "_" and line.get_markersize() == 7]
    assert means == pytest.approx(table["mean"].dropna().to_list())
    hollow = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "D"]
    assert hollow == pytest.approx(table["paper"].dropna().to_list())
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == [*experiments.TABLE_2] * 2


def test_gap_curves_are_means_with_their_t_interval():
    gap = pd.DataFrame([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]], index=[96, 192])
    _, ax = figures.figure()
    assert figures.gap_curves(ax, {"FM thresh. 0.999 − FM": gap, "FMUC − FM": gap + 1}, "test") is ax
    zero, *lines = ax.lines
    assert list(zero.get_ydata()) == [0, 0] and [line.get_label() for line in lines] == [
        "FM thresh. 0.999 − FM (n=3)", "FMUC − FM (n=3)"]
    assert [line.get_color() for line in lines] == [figures.COLOURS["FM"], figures.COLOURS["FMUC"]]
    assert lines[1].get_xydata() == pytest.approx(np.array([[96, 3], [192, 4]]))
    band = ax.collections[0].get_paths()[0].vertices
    half = 4.302653 / 3**0.5  # t with two degrees of freedom times s / sqrt(n)
    assert band[band[:, 0] == 96][:, 1].min() == pytest.approx(2 - half, abs=1e-4)
    assert band[band[:, 0] == 96][:, 1].max() == pytest.approx(2 + half, abs=1e-4)


def test_class_dots_show_each_class_in_the_colours_of_the_methods():
    kept, seen = np.array([[8, 2, 0], [1, 6, 3], [0, 0, 0], [4, 4, 4]]), np.array([20, 10, 5, 50])
    _, ax = figures.figure()
    figures.class_dots(ax, {v: analysis.class_rates(kept, seen, ["x", "y", "z_z"]) for v in ("FM", "FMUC")}, "quantity")
    assert {line.get_label(): line.get_color() for line in ax.lines} == {v: figures.COLOURS[v] for v in ("FM", "FMUC")}
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [50, 100, 0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "y", "z z"]


# --- style -----------------------------------------------------------------------------------------------------------

def test_one_colour_per_method_and_none_shared():
    assert figures.colour("FMUC w. temp. 4") == figures.colour("FMUC")
    assert figures.colour("FM thresh. 0.99") == figures.colour("FM")
    assert len({figures.colour(variant) for variant in experiments.TABLE_2}) == 4
    rows = (*experiments.TABLE_1, *experiments.EQUAL_QUANTITY)
    assert len({(figures.colour(variant), figures.marker(variant)) for variant in rows}) == len(rows)


def test_own_variants_appear_in_every_plot(records):
    own = "FMUC, selection.passes=20"
    mine = [replace(r, run=replace(r.run, variant=own)) for r in records if r.run.variant == "FMUC" and r.run.seed < 2]
    both, name = [*records, *mine], figures.label(own)
    _, axes = figures.figure("double", rows=4, aspect=0.4)
    for draw, ax in zip((figures.quality_curves, figures.quantity_curves), axes, strict=False):
        draw(ax, both, NAME)
        assert name in " ".join(text.get_text() for text in ax.get_legend().get_texts())
    figures.table1_plane(axes[2], tables.table1(both, NAME, 12), NAME)
    figures.table2_points(axes[3], tables.table2(both, NAME), NAME)
    assert own in by_gid(axes[2]) and f"test {own}" in by_gid(axes[3])
    assert name in [text.get_text() for text in axes[3].get_xticklabels()]
    assert figures.colour(own) not in figures.COLOURS.values()


@pytest.mark.filterwarnings("ignore:Glyph")  # a font that has it may be missing
@pytest.mark.parametrize("name", ["cost $a_$ and $b$", r"\frac{", "雨と風", "🐦 bird", "a" * 300])
def test_any_name_of_a_class_can_be_drawn(name, own_folder):
    classes = [name, "bus", "b" * 300]
    fig, axes = figures.figure("double", columns=2)
    figures.confusion_heatmap(axes[0], np.eye(3), classes)
    kept = np.vstack([np.eye(3, dtype=int), np.zeros((1, 3), dtype=int)])
    rates = analysis.class_rates(kept, np.array([2, 2, 2, 0]), classes)
    figures.class_dots(axes[1], {"FM": rates, name: rates}, "quality")
    axes[1].legend()
    figures.save_figure(fig, "names", "mini", alt="names")
    assert max(len(text.get_text()) for text in axes[1].get_yticklabels()) <= 25 + name.count("$")
    assert not overlapping(axes[1], axes[1].get_yticklabels())
    assert axes[0].get_position().width > 0.15  # names leave room for the data


# --- diagrams --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("draw", "says"), [
    (diagrams.fixmatch_diagram, ("≥ 0.95 ?", "softmax", "same weights")),
    (diagrams.fmuc_diagram, ("> 0.9 ?", "mean − std", "logits / 2", "N = 5 passes")),
])
def test_diagrams_state_the_papers_settings(draw, says):
    _, ax = figures.figure("double", aspect=0.4)
    draw(ax, {name: np.full((32, 16), float(i)) for i, name in enumerate(("example", "weak", "strong"))})
    text = " ".join(label.get_text() for label in ax.texts)
    assert all(part in text for part in (*says, "unlabelled", "weak", "strong", "CNN420", "pseudo-label", "target"))
    assert not overlapping(ax, ax.texts) and [image.get_array()[0, 0] for image in ax.images] == [0, 1, 2]


# --- files -----------------------------------------------------------------------------------------------------------

def save_curves(records):
    fig, ax = figures.figure()
    figures.quality_curves(ax, records, NAME)
    history = tables.history_table(records, NAME, ("FM", "FMUC"))
    figures.save_figure(fig, "fig2a_quality", "mini", data=history, records=records, alt="Quality rises.")


def test_saved_figure_is_complete_and_byte_stable(records, own_folder):
    save_curves(records)
    first = {path.name: path.read_bytes() for path in own_folder.rglob("*") if path.is_file()}
    names = ["fig2a_quality.png", "fig2a_quality.svg", "fig2a_quality.csv"]
    assert set(first) == {*names, "manifest.json", ".manifest.lock"}
    save_curves(records)
    assert {path.name: path.read_bytes() for path in own_folder.rglob("*") if path.is_file()} == first
    (row,) = figures.manifest(own_folder)
    assert row["files"] == {name: hashlib.sha256(first[name]).hexdigest() for name in names}
    assert row["runs"] == {record.run.name: record.digest for record in records} and row["datasets"] == [NAME]
    assert (row["kind"], row["profile"], row["alt"]) == ("figure", "mini", "Quality rises.")
    svg = first["fig2a_quality.svg"].decode()
    assert not re.search(r"\b20\d\d-\d\d-\d\d|Matplotlib v", svg) and b"Software" not in first["fig2a_quality.png"]
    data = pd.read_csv(own_folder / "fig2a_quality.csv")
    assert np.allclose(data["quality"], tables.history_table(records, NAME, ("FM", "FMUC"))["quality"], rtol=1e-5)
    assert plt.imread(own_folder / "fig2a_quality.png").shape[1] == 700  # 3.5 inches at 200 dpi


def test_a_notebook_shows_the_file_and_nothing_else(own_folder, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "get_ipython", object)
    monkeypatch.setattr(figures, "display", shown.append)
    fig, ax = figures.figure("double", columns=1)
    ax.plot([0, 1])
    figures.save_figure(fig, "line", "mini", alt="A line that rises.")
    (picture,) = shown
    data, metadata = picture._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == (own_folder / "line.png").read_bytes()
    assert metadata["image/png"] == {"width": round(7.16 * 120), "alt": "A line that rises."}
    assert not plt.fignum_exists(fig.number)  # else Jupyter would draw it a second time


def test_many_at_the_same_time_lose_nothing(own_folder):
    frame = pd.DataFrame({"a": [1.0]})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: figures.save_table(frame, f"table_{i % 10}", "mini", alt=f"number {i}"), range(60)))
    assert [row["name"] for row in figures.manifest(own_folder)] == [f"table_{i}" for i in range(10)]
    assert not list(own_folder.rglob("*.tmp"))
