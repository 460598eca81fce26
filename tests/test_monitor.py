"""The run monitor: what it reads while a run trains, what it draws, how it ends."""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from fmuc import checkpoints, experiments, monitor, paths, train
from fmuc import figures as plots
from fmuc.errors import FmucError

NAME = "nsynth-gm-smoke"


@pytest.fixture
def folder(data_root: Path) -> Path:
    return paths.runs_dir("smoke")


def rows(epochs: int, **values: float) -> list[dict]:
    """Rows of a history in which quality rises by a point an epoch."""
    return [{"epoch": e, "quality": 0.5 + e / 100, "quantity": 0.25, "loss_labelled": 1.0, **values}
            for e in range(1, epochs + 1)]


def checkpoint(folder: Path, run, history: list[dict], run_id: str = "") -> Path:
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"checkpoint-{len(history):04d}.safetensors"
    checkpoints.write(path, {}, {"run": run_id or run.id, "rows": history})
    return path


def make_run(variant: str = "FMUC", seed: int = 0):
    return experiments.make_run("smoke", NAME, variant, seed)


# What is read


def test_a_run_without_files_has_one_row_without_an_epoch(folder):
    frame = monitor.progress([make_run()], folder)
    assert (len(frame), frame.loc[0, "epoch"], frame.loc[0, "finished"], frame.loc[0, "planned"]) == (1, 0, False, 4)
    assert frame[list(monitor.METRICS)].isna().all(axis=None)


def test_an_unfinished_run_is_read_from_its_last_checkpoint(folder):
    run = make_run()
    checkpoint(folder, run, rows(2))
    checkpoint(folder, run, rows(3, test_accuracy=0.5))
    frame = monitor.progress([run], folder)
    assert frame["epoch"].tolist() == [1, 2, 3] and not frame["finished"].any()
    assert np.allclose(frame["quality"], [51, 52, 53]) and np.allclose(frame["test_accuracy"], 50)
    assert frame["unlabelled_accuracy"].isna().all()


@pytest.mark.parametrize("damage", [b"", b"damaged", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_a_damaged_checkpoint_is_passed_over(folder, damage):
    run = make_run()
    checkpoint(folder, run, rows(2))
    checkpoint(folder, run, rows(3)).write_bytes(damage)
    assert monitor.progress([run], folder)["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize("history", [[1], [{"quality": 1.0}], {"epoch": 1}, [{"epoch": 1, "quality": "high"}]])
def test_a_history_that_is_none_is_passed_over(folder, history):
    run = make_run()
    checkpoint(folder, run, rows(1))
    checkpoint(folder, run, rows(2)).unlink()
    checkpoints.write(folder / run.name / "checkpoint-0002.safetensors", {}, {"run": run.id, "rows": history})
    assert monitor.progress([run], folder)["epoch"].tolist() == [1]


def test_a_checkpoint_of_another_run_is_not_this_run(folder):
    run = make_run()
    checkpoint(folder, run, rows(2), run_id="another")
    assert monitor.progress([run], folder)["epoch"].tolist() == [0]


def test_what_training_leaves_after_each_epoch_and_at_the_end(trainable):
    """The real thing: the monitor sees each epoch as soon as it is there, and the run ends as without it."""
    run = make_run("FM")
    seen, folder = [], paths.runs_dir("smoke")

    def look(row: dict) -> None:
        frame = monitor.progress([run], folder)
        seen.append((row["epoch"], frame["epoch"].max(), frame["finished"].any()))
        last = frame.iloc[-1]
        assert np.isclose(last["quantity"], 100 * row["quantity"])

    record = train.train(run, device="cpu", folder=folder / run.name, progress=False, on_epoch=look)
    assert seen == [(epoch, epoch, False) for epoch in range(1, 5)]
    frame = monitor.progress([run], folder)
    assert frame["finished"].all()
    assert np.allclose(frame["quantity"], 100 * record.history["quantity"], rtol=1e-4)
    assert np.allclose(frame["test_accuracy"].dropna(), 100 * record.history["test_accuracy"].dropna(), rtol=1e-4)


# What is drawn


def made_up(variants=("FM", "FMUC", "FMUC w. temp. 4", "Fully supervised"), dataset: str = NAME) -> pd.DataFrame:
    """A frame with numbers that are made up: one run of each variant, the first one finished."""
    frames = []
    for k, variant in enumerate(variants):
        last = 4 if k == 0 else 2
        frame = pd.DataFrame({"dataset": dataset, "variant": variant, "seed": 0, "planned": 4, "finished": k == 0,
                              "epoch": range(1, last + 1), "quality": 60.0 + k + np.arange(last), "quantity": 30.0 + k,
                              "test_accuracy": [np.nan, 40.0 + k] * (last // 2), "unlabelled_accuracy": np.nan,
                              "validation_quality": np.nan, "validation_quantity": np.nan})
        supervised = variant not in experiments.TABLE_1
        frames.append(frame.assign(quality=np.nan, quantity=np.nan) if supervised else frame)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def drawn():
    yield monitor.draw
    plt.close("all")


def lines(ax) -> dict:
    return {line.get_gid(): line for line in ax.lines}


def test_each_run_is_a_line_in_its_methods_colour(drawn):
    frame = made_up()
    fig = drawn(frame)
    quality, quantity, accuracy = (lines(ax) for ax in fig.axes)
    assert quality.keys() == {f"{v} s0 quality" for v in ("FM", "FMUC", "FMUC w. temp. 4")}  # supervised: none
    assert accuracy.keys() == {f"{v} s0 test_accuracy" for v in frame["variant"].unique()}
    for gid, line in {**quality, **quantity, **accuracy}.items():
        variant = gid.partition(" s0 ")[0]
        assert to_hex(line.get_color()).upper() == plots.colour(variant)
        assert line.get_marker() == plots.MARKERS.get(variant, ".")
    assert quality["FMUC s0 quality"].get_ydata().tolist() == [61, 62]
    assert accuracy["FM s0 test_accuracy"].get_xdata().tolist() == [2, 4]
    assert quality["FM s0 quality"].get_alpha() < quality["FMUC s0 quality"].get_alpha()  # finished


def test_labels_titles_and_legend(drawn):
    fig = drawn(pd.concat([made_up(), made_up(("FM",), "scenes-sim")]))
    assert len(fig.axes) == 6
    assert [ax.get_ylabel() for ax in fig.axes[:3]] == ["pseudo-label quality (%)", "pseudo-label quantity (%)",
                                                        "file-wise accuracy (%)"]
    assert fig.axes[0].get_title(loc="left") == f"{NAME} (stand-in): 1 of 4 runs finished, 3 begun, 62% of the epochs"
    assert fig.axes[3].get_title(loc="left").startswith("scenes-sim (stand-in): 1 of 1 runs finished")
    texts = [text.get_text() for text in fig.legends[0].get_texts()]
    assert texts == ["FM", "FMUC", "FMUC w. temp. 4", "Fully supervised", "accuracy: test files",
                     "accuracy: unlabelled files"]
    assert all(text.get_fontsize() >= 6 for text in fig.findobj(plt.Text) if text.get_text())


def test_where_no_truth_is_known_the_estimate_is_drawn(drawn):
    frame = made_up(("FM",)).assign(quality=np.nan, validation_quality=70.0, validation_quantity=20.0)
    fig = drawn(frame)
    assert fig.axes[0].get_ylabel() == "quality on validation files (%)"
    assert lines(fig.axes[0])["FM s0 validation_quality"].get_ydata().tolist() == [70] * 4


def test_before_the_first_epoch(drawn, folder):
    fig = drawn(monitor.progress([make_run()], folder))
    assert [ax.texts[0].get_text() for ax in fig.axes] == ["nothing yet"] * 3


def test_nothing_to_draw():
    with pytest.raises(FmucError, match="no run to draw"):
        monitor.draw(made_up().iloc[:0])


def test_the_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "progress.png"
    monitor.write(made_up(), path)
    assert matplotlib.image.imread(path).shape[1] > 1000
    before = path.read_bytes()
    monkeypatch.setattr(plt.Figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("half way")))
    with pytest.raises(RuntimeError, match="half way"):
        monitor.write(made_up(), path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["progress.png"]
    assert not plt.get_fignums()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FmucError, match="cannot be written.*--output"):
        monitor.write(made_up(), tmp_path / "file" / "progress.png")


# The loop


def end(folder: Path, run) -> None:
    """A record's two files that the monitor looks at."""
    place = folder / run.name
    place.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows(run.training.epochs)).to_csv(place / "history.csv", index=False)
    (place / "run.json").write_text("{}")


def test_it_follows_what_changes_until_all_runs_are_finished(folder, monkeypatch):
    run, other = make_run("FM"), make_run("FMUC")
    monkeypatch.setattr(experiments, "plan", lambda *_: [run, other])
    steps = iter([lambda: checkpoint(folder, run, rows(1)), lambda: None, lambda: end(folder, run),
                  lambda: end(folder, other)])
    monkeypatch.setattr(time, "sleep", lambda seconds: next(steps)())
    frames = list(monitor.follow("smoke"))
    assert [monitor.counts(frame).partition(",")[0] for frame in frames] == [
        "0 of 2 runs finished", "0 of 2 runs finished", "1 of 2 runs finished", "2 of 2 runs finished"]
    assert [int(frame["epoch"].max()) for frame in frames] == [0, 1, 4, 4]


@pytest.mark.parametrize("every", [0, -1, float("nan")])
def test_seconds_without_a_meaning(folder, every):
    with pytest.raises(FmucError, match="must be positive"):
        next(monitor.follow("smoke", every=every))


def test_in_a_notebook_one_picture_takes_the_place_of_the_other(folder, monkeypatch, capsys):
    import IPython.display

    shown = []

    class Handle:
        def update(self, picture) -> None:
            shown.append(("update", picture))

    def display(picture, display_id: bool) -> Handle:
        shown.append(("display", picture))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    run = make_run("FM")
    monkeypatch.setattr(experiments, "plan", lambda *_: [run])
    steps = iter([lambda: checkpoint(folder, run, rows(1)), lambda: (_ for _ in ()).throw(KeyboardInterrupt)])
    monkeypatch.setattr(time, "sleep", lambda seconds: next(steps)())
    monitor.watch("smoke")
    assert [kind for kind, _ in shown] == ["display", "update"]
    assert all(picture.data.startswith(b"\x89PNG") for _, picture in shown)
    assert "no longer watching" in capsys.readouterr().out
    each = monitor.live(run, folder / run.name)
    each({"epoch": 1})
    assert shown[-1][0] == "display" and "0 of 1 runs finished, 1 begun" in shown[-1][1].alt
