"""The sampler, epochs, resuming, records, and what happens when something is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from test_kills import ending
from torch.nn import BatchNorm2d

from fmuc import datasets
from fmuc.augment import augment
from fmuc.batches import PatchSource, stream
from fmuc.config import Augmentation, Network, Run, Selection, Training, View
from fmuc.errors import FmucError
from fmuc.features import extract
from fmuc.fixmatch import Batch, as_images, build, step
from fmuc.machinery import checkpoints
from fmuc.records import Record, load_record, save_record
from fmuc.train import Trainer, is_current, predict, train

CPU = torch.device("cpu")
LOW_FMUC = Selection(rule="mean_minus_std", threshold=0.55, temperature=2.0, passes=3)
RUN = Run(
    "nsynth", "FM", 0, TINY, labelled_share=0.25, selection=Selection(rule="confidence", threshold=0.1),
    augmentation=Augmentation(View(shift_time=0.2), View(shift_time=0.3, shift_mel=0.1, noise=0.3, sharpen=0.5)),
    network=Network(widths=(4, 8), blocks=(1, 1), stem=(3, 2)),
    training=Training(labelled_batch=4, unlabelled_batch=10, iterations_per_epoch=3, epochs=4, supervised_batch=6,
                      warm_start=5, evaluate_every=2, precision="float32"),
)
PART = replace(RUN, variant="Labelled part only", selection=None)
SHORT = replace(PART, training=replace(PART.training, epochs=1))
FULL = replace(RUN, variant="Fully supervised", selection=None, labels="all")


pytestmark = pytest.mark.usefixtures("one_thread")  # equality to the last bit does not depend on how work is shared


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """One folder deeper: runs leave their warm start beside their folder, and the tests must not share it."""
    (tmp_path / "test").mkdir()
    return tmp_path / "test"


def trainer(folder: Path, run: Run = RUN) -> Trainer:
    return Trainer(run, datasets.load(run.dataset), folder, "cpu")


def trained(folder: Path, run: Run = RUN, epochs: int = 1) -> Trainer:
    t = trainer(folder, run)
    for _ in range(epochs):
        t.train_epoch()
    return t


def train_until(epoch: int, run: Run, folder: Path) -> None:
    """Train a run and interrupt it after an epoch."""
    def interrupt(row: dict) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, device="cpu", folder=folder, progress=False, on_epoch=interrupt)


def changed(**settings: object) -> Run:
    """``RUN`` with other settings of its training."""
    return replace(RUN, training=replace(RUN.training, **settings))


def assert_equal_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    other = second.state_dict()
    different = [name for name, value in first.state_dict().items() if not torch.equal(value, other[name])]
    assert not different


# One step


def random_batch() -> Batch:
    rng = torch.Generator().manual_seed(5)
    return Batch(torch.randn(6, 12, 8, generator=rng), torch.tensor([0, 1, 2, 2, 1, 0]),
                 torch.randn(14, 12, 8, generator=rng), torch.randint(-1, 3, (14,), generator=rng))


def test_a_supervised_step_is_the_cross_entropy_of_the_weak_view():
    net, optimiser = build(PART, 3, CPU)
    reference, batch = deepcopy(net), random_batch()
    torch.manual_seed(11)
    losses = step(net, optimiser, replace(batch, unlabelled=None, truth=None), PART, torch.Generator().manual_seed(1))
    torch.manual_seed(11)
    x = augment(batch.labelled, PART.augmentation.weak, torch.Generator().manual_seed(1))
    log = torch.log_softmax(reference(as_images(x)), dim=1)
    assert losses.tolist() == pytest.approx([-log[range(6), batch.labels].mean().item(), 0], rel=1e-6)


def test_every_weight_learns_in_bfloat16_too():
    """The weak pass without gradients shares autocast's cache of weights with the training pass."""
    run = replace(RUN, selection=LOW_FMUC, training=replace(RUN.training, precision="bfloat16"))
    net, optimiser = build(run, 3, CPU)
    with torch.no_grad():
        net.head.weight.mul_(40)  # so that some are kept
    losses = step(net, optimiser, random_batch(), run, torch.Generator().manual_seed(1))
    assert losses.dtype == torch.float32 and losses.isfinite().all()
    assert all(p.grad is not None and p.grad.any() and p.dtype == torch.float32 for p in net.parameters())


# Sampling


def test_a_stream_is_addressed_by_position_and_every_lap_is_a_new_permutation():
    pool = np.arange(100, 112)
    whole = stream(pool, (3, 0), 0, 60)
    laps = whole.reshape(5, 12)
    assert all(sorted(lap) == pool.tolist() for lap in laps) and len({tuple(lap) for lap in laps}) == 5
    for start, count in ((3, 9), (12, 12), (13, 40), (59, 1), (20, 0)):
        np.testing.assert_array_equal(stream(pool, (3, 0), start, count), whole[start : start + count])
    assert not any(np.array_equal(whole, stream(pool, seed, 0, 60)) for seed in ((4, 0), (3, 1)))


def test_batches_take_every_patch_equally_often_with_the_labels_of_its_file(trainable, tmp_path):
    t = trainer(tmp_path)
    assert len(t.unlabelled) == 2 * 18 and len(t.labelled) == 2 * 6  # two patches of each file
    taken = [t.indices(index, unlabelled=True) for index in range(18)]
    labelled, unlabelled = (torch.cat(part).numpy() for part in zip(*taken, strict=True))
    assert sorted(unlabelled[:36]) == sorted(t.unlabelled)
    assert np.bincount(unlabelled)[t.unlabelled].tolist() == [5] * 36  # 18 * 10 = 5 * 36
    assert np.bincount(labelled)[t.labelled].tolist() == [6] * 12
    batch = t.batch(3, unlabelled=True)
    for patches, x, y, files in ((taken[3][0].numpy(), batch.labelled, batch.labels, t.split.labelled),
                                 (taken[3][1].numpy(), batch.unlabelled, batch.truth, t.split.unlabelled)):
        own = t.source.cache.clip_of_patch[patches]
        np.testing.assert_array_equal(x.numpy(), t.source.cache.normalised(patches))
        assert y.tolist() == [t.dataset.classes.index(t.dataset.clips[i].label) for i in own]
        assert set(own.tolist()) <= set(files.tolist())


# The hidden truth


def test_the_truth_of_unlabelled_files_is_counted_but_never_learnt_from(trainable, tmp_path):
    honest, wrong, unknown = (trainer(tmp_path) for _ in range(3))
    wrong.truth[wrong.unlabelled] = (wrong.truth[wrong.unlabelled] + 1) % 11
    unknown.truth[unknown.unlabelled] = -1
    for _ in range(2):
        first, second, third = (t.train_epoch() for t in (honest, wrong, unknown))
    assert first["quantity"] == second["quantity"] > 0 and first["loss_unlabelled"] == second["loss_unlabelled"] > 0
    assert_equal_weights(honest.net, wrong.net)
    assert_equal_weights(honest.net, unknown.net)
    assert not np.array_equal(honest.kept[-1], wrong.kept[-1])
    assert honest.kept[-1].sum() == wrong.kept[-1].sum() == unknown.kept[-1][-1].sum()
    assert np.isnan(third["quality"])


# Epochs, resuming, warm start


@pytest.mark.parametrize(("run", "stop"), [
    (RUN, 1), (replace(RUN, selection=LOW_FMUC), 3), (PART, 1),
    (replace(RUN, selection=replace(LOW_FMUC, rule="flexmatch")), 2),
    (replace(changed(scored_passes=5), outside=0.5), 3),
], ids=["FM", "FMUC", "supervised", "adaptive", "open set and scored pool"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(trainable, tmp_path, run, stop):
    whole, parts = tmp_path / "whole" / "run", tmp_path / "parts" / "run"
    train(run, device="cpu", folder=whole, progress=False)
    train_until(stop, run, parts)
    torch.manual_seed(99)  # another process knows nothing of the first one's generators
    train(run, device="cpu", folder=parts, progress=False)
    assert ending(parts) == ending(whole)


def test_the_whole_pool_is_scored_half_way_and_at_the_end(trainable, tmp_path):
    t = trained(tmp_path, changed(scored_passes=5), epochs=4)
    stored, patches, scores = t.record().pool, len(t.unlabelled), 2 + 3 * 4 - 2
    assert stored["epochs"].tolist() == [2, 4] and len(stored["names"]) == scores
    assert stored["certainty"].shape == stored["labels"].shape == (2, scores, patches)
    assert stored["probabilities"].shape == (2, patches, 11)
    assert {group.decode() for group in stored["groups"]} == {t.dataset.clips[i].group for i in t.split.unlabelled}


def test_nets_of_one_ensemble_share_their_labelled_files_and_views(trainable, tmp_path):
    nets = [trainer(tmp_path, replace(changed(scored_passes=1), seed=seed, split_seed=7)) for seed in (0, 1)]
    assert nets[0].split.digest == nets[1].split.digest != trainer(tmp_path).split.digest
    nets[1].net = nets[0].net
    one, other = (net.score_pool(epoch=1) for net in nets)
    assert torch.equal(one["probabilities"], other["probabilities"])


def test_accuracy_is_the_mean_of_the_last_ten_evaluations(trainable, tmp_path):
    t = trainer(tmp_path, changed(evaluate_every=1, epochs=12, iterations_per_epoch=1))
    accuracies = [t.train_epoch()["test_accuracy"] for _ in range(12)]
    results = t.record().results
    assert results["test_accuracy"] == pytest.approx(np.mean(accuracies[-10:]))
    assert results["test_accuracy_last"] == pytest.approx(accuracies[-1])


def test_warm_start_takes_its_number_of_supervised_steps(trainable, tmp_path):
    for warm_start in (5, 0):
        t = trained(tmp_path, changed(warm_start=warm_start))
        norm = next(m for m in t.net.modules() if isinstance(m, BatchNorm2d))
        steps = {state["step"].item() for state in t.optimiser.state.values()}
        assert steps == {norm.num_batches_tracked.item()} == {warm_start + 3}
        assert t.seen[0].sum() == 30  # the warm start is not counted


def warm_starts(folder: Path) -> list[Path]:
    return sorted((folder.parent / "warm-starts").glob("[!.]*"))


def test_rows_of_a_seed_share_their_warm_start_bit_for_bit(trainable, tmp_path):
    (tmp_path / "alone").mkdir()
    alone = trained(tmp_path / "alone" / "run", replace(RUN, variant="FMUC", selection=LOW_FMUC))
    trained(tmp_path / "first")
    (shared,) = warm_starts(tmp_path / "first")
    written = shared.stat().st_ino
    second = trained(tmp_path / "second", alone.run)
    assert_equal_weights(alone.net, second.net)
    np.testing.assert_array_equal(alone.kept, second.kept)
    assert warm_starts(tmp_path / "first") == [shared] and shared.stat().st_ino == written  # not made again


def test_whatever_changes_the_warm_start_gives_another_one(trainable, tmp_path):
    runs = [RUN, replace(RUN, seed=1), replace(RUN, network=replace(RUN.network, dropout=0.2)),
            changed(learning_rate=1e-2), replace(RUN, augmentation=replace(RUN.augmentation, weak=View()))]
    for run in runs:
        trainer(tmp_path / "run", run).warm_up()
    assert len(warm_starts(tmp_path / "run")) == len(runs)


@pytest.mark.parametrize("damage", ["flipped", "code"])
def test_a_warm_start_that_is_not_whole_or_of_other_code_is_made_again(trainable, tmp_path, damage):
    first, again = trainer(tmp_path / "first"), trainer(tmp_path / "again")
    first.warm_up()
    (path,) = warm_starts(tmp_path / "first")
    whole, (tensors, _) = path.read_bytes(), checkpoints.read(path)
    if damage == "code":
        checkpoints.write(path, {name: value + 1 for name, value in tensors.items()}, {"code": "older"})
    else:
        path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    again.warm_up()
    assert_equal_weights(first.net, again.net)
    assert path.read_bytes() == whole


# Finished runs


def finished(folder: Path, run: Run = SHORT, **options) -> tuple[list[int], Record]:
    """Train; returns the epochs that were really trained, and the record."""
    epochs = []
    record = train(run, device="cpu", folder=folder, progress=False, on_epoch=lambda row: epochs.append(row["epoch"]),
                   **options)
    return epochs, record


def make_features() -> None:
    extract(datasets.load("nsynth"), TINY, workers=1, progress=False)


def other_sound(root: Path) -> None:
    path = next((root / "nsynth-train" / "audio").glob("*.wav"))
    sound, rate = soundfile.read(path)
    soundfile.write(path, sound[::-1], rate, subtype="PCM_16")


def other_label(root: Path) -> None:
    path = root / "nsynth-train" / "examples.json"
    path.write_text(path.read_text().replace('"instrument_family_str": "vocal"', '"instrument_family_str": "organ"'))


def test_a_finished_run_is_not_trained_again_unless_asked_to(trainable, tmp_path, capsys):
    epochs, first = finished(tmp_path / "run")
    again, second = finished(tmp_path / "run")
    assert (epochs, again) == ([1], []) and second.digest == first.digest and is_current(SHORT, tmp_path / "run")
    assert capsys.readouterr().err == ""
    forced, third = finished(tmp_path / "run", force=True)
    assert forced == [1] and third.results == first.results
    assert load_record(tmp_path / "replaced" / "run.1").digest == first.digest
    finished(tmp_path / "run", force=True)
    assert load_record(tmp_path / "replaced" / "run.2").digest == third.digest
    message = capsys.readouterr().err
    assert message.count("\n") == 2 and "asked to train it again; the old files are kept in" in message


@pytest.mark.parametrize("change", [other_sound, other_label])
def test_a_finished_run_whose_data_changed_is_kept_aside_and_trained_again(nsynth_root, tmp_path, capsys, change):
    make_features()
    _, first = finished(tmp_path / "run")
    change(nsynth_root)
    make_features()
    assert not is_current(SHORT, tmp_path / "run")
    epochs, second = finished(tmp_path / "run")
    assert epochs == [1] and is_current(SHORT, tmp_path / "run")
    assert load_record(tmp_path / "replaced" / "run.1").digest == first.digest
    different = {name for name in ("dataset_digest", "features_digest", "split_digest")
                 if first.provenance[name] != second.provenance[name]}
    assert different >= ({"features_digest"} if change is other_sound else {"dataset_digest"})
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "run: it was trained on other data; the old files are kept in" in message


def test_a_finished_record_of_another_configuration_is_refused(trainable, tmp_path):
    _, first = finished(tmp_path / "run")
    other = replace(SHORT, seed=1)
    with pytest.raises(FmucError, match=f"holds the record of run {SHORT.name}, not of {other.name}") as caught:
        finished(tmp_path / "run", other)
    one_line(caught)
    assert load_record(tmp_path / "run").digest == first.digest


# Evaluation and records


def test_a_longer_run_begins_with_the_shorter_one(trainable, tmp_path):
    """So Table I can be read off the first epochs of the runs of Table II."""
    shorter, longer = trained(tmp_path, changed(epochs=1)), trained(tmp_path)
    assert_equal_weights(shorter.net, longer.net)
    np.testing.assert_array_equal(shorter.kept, longer.kept)


def test_accuracies_and_scores_are_computed_in_the_planned_epochs_and_do_not_disturb_training(trainable, tmp_path):
    often, seldom = (trained(tmp_path, changed(evaluate_every=every, scored_passes=passes), epochs=4)
                     for every, passes in ((1, 5), (3, 0)))
    assert_equal_weights(often.net, seldom.net)
    assert [row["epoch"] for row in seldom.rows if "test_accuracy" in row] == [3, 4]
    assert all(0 <= row["unlabelled_accuracy"] <= 1 for row in often.rows)


def test_a_record_holds_what_the_net_predicts_for_every_file(trainable, tmp_path):
    run = changed(epochs=1)
    record = train(run, device="cpu", folder=tmp_path / "run", progress=False)
    t = trainer(tmp_path / "run", run)
    assert t.load_checkpoint()
    for part in ("test", "unlabelled"):
        clips = getattr(t.split, part)
        assert record.files[f"{part}_ids"].astype(str).tolist() == [t.dataset.clips[i].id for i in clips]
        right = []
        for row, clip in enumerate(clips):
            patches = np.flatnonzero(t.source.cache.clip_of_patch == clip)
            mean = predict(t.net, t.source, patches, run).mean(axis=0)
            np.testing.assert_allclose(record.files[f"{part}_probabilities"][row], mean, atol=1e-3)
            truth = t.dataset.classes.index(t.dataset.clips[clip].label)
            assert record.files[f"{part}_labels"][row] == truth
            right.append(mean.argmax() == truth)
        assert record.results[f"{part}_accuracy"] == pytest.approx(np.mean(right))
        assert record.results[f"{part}_files"] == len(clips) == {"test": 9, "unlabelled": 18}[part]
    saved = json.loads((tmp_path / "run" / "split.json").read_text())
    assert saved["labelled"] == [t.dataset.clips[i].id for i in t.split.labelled]
    assert saved["split_digest"] == t.split.digest
    assert record.provenance["dataset_digest"] == t.dataset.digest and record.provenance["precision"] == "float32"


def partly_known(name: str, labelled: int) -> datasets.Dataset:
    """The data set ``nsynth`` where nobody labelled more than the first ``labelled`` training files of a family."""
    source, seen, clips = datasets.load("nsynth"), Counter(), []
    for clip in source.clips:
        seen[clip.label] += clip.split == "train"
        hidden = clip.split == "train" and seen[clip.label] > labelled
        clips.append(replace(clip, label=None) if hidden else clip)
    return datasets.Dataset(name, source.classes, tuple(clips))


def test_where_the_truth_is_unknown_the_rule_is_estimated_on_validation_files(trainable, tmp_path):
    data = partly_known("own", 3)
    run = replace(RUN, dataset="own", labelled_share=1.0)
    extract(data, TINY, workers=1, progress=False)
    t = Trainer(run, data, tmp_path, "cpu")
    assert (len(t.split.labelled), len(t.split.unlabelled)) == (9, 15)
    first, second = (t.train_epoch() for _ in range(2))
    assert np.isnan(second["quality"]) and np.isnan(second["unlabelled_accuracy"])
    assert second["quantity"] > 0.5  # threshold 0.1: nothing is known of them, but they are kept
    assert "validation_quality" in second and "validation_quality" not in first
    # slowly, with a weak view that changes nothing
    still = replace(run, augmentation=replace(RUN.augmentation, weak=View()))
    t = Trainer(still, data, tmp_path, "cpu")
    estimate = t.estimate(torch.Generator().manual_seed(0))
    valid = data.indices("valid")
    patches = t.source.cache.patches_of(valid)
    probabilities = predict(t.net, t.source, patches, still)
    right = probabilities.argmax(axis=1) == data.labels()[t.source.cache.clip_of_patch[patches]]
    sure = probabilities.max(axis=1) >= 0.1
    assert estimate == {"validation_quality": pytest.approx(right[sure].mean()),
                        "validation_quantity": pytest.approx(sure.mean())}
    assert t.net.training


def test_a_run_without_known_truth_or_test_files_ends_in_a_record_without_nan(trainable, tmp_path):
    """And a file may have any name."""
    whole = partly_known("own", 3)
    clips = (replace(clip, id=f"käuzchen/{clip.id}") for clip in whole.clips if clip.split == "train")
    data = datasets.Dataset("own", whole.classes, tuple(clips))
    extract(data, TINY, workers=1, progress=False)
    t = Trainer(replace(changed(epochs=1), dataset="own", labelled_share=1.0), data, tmp_path, "cpu")
    t.train_epoch()
    save_record(t.record(), tmp_path)
    record = load_record(tmp_path)
    assert record.results == {"test_files": 0, "unlabelled_files": 15, "labelled_files": 9}
    assert "NaN" not in (tmp_path / "run.json").read_text()
    assert set(record.files["unlabelled_labels"]) == {-1}
    assert {id.decode() for id in record.files["unlabelled_ids"]} < {clip.id for clip in data.clips}


@pytest.mark.parametrize(("run", "labelled", "unlabelled"), [(PART, 6, 18), (FULL, 24, 0)], ids=["part", "all"])
def test_supervised_runs(trainable, tmp_path, run, labelled, unlabelled):
    t = trainer(tmp_path, run)
    batch = t.batch(0, unlabelled=False)
    assert len(batch.labelled) == 6 and batch.unlabelled is None
    row = t.train_epoch()
    assert np.isnan(row["quality"]) and np.isnan(row["quantity"]) and t.seen[0].sum() == 0
    results = t.record().results
    assert (results["labelled_files"], results["unlabelled_files"]) == (labelled, unlabelled)
    assert ("unlabelled_accuracy" in results) == bool(unlabelled)


def test_patches_that_do_not_fit_are_read_batch_by_batch_with_the_same_result(trainable, tmp_path):
    resident, mapped = trained(tmp_path), trainer(tmp_path)
    assert mapped.source.resident is not None
    mapped.source.resident = None
    mapped.train_epoch()
    assert_equal_weights(resident.net, mapped.net)


# Losses that are not finite


def spoil(t: Trainer, patch: int) -> str:
    """Make one patch not finite; returns the name of its file."""
    patches = np.array(t.source.cache.patches)
    patches[patch, 2, 3] = np.nan
    t.source = PatchSource(replace(t.source.cache, patches=patches), t.device)
    return t.dataset.clips[t.source.cache.clip_of_patch[patch]].id


def test_a_high_learning_rate_ends_the_run_and_names_step_and_files(trainable, tmp_path):
    t = trainer(tmp_path, changed(learning_rate=1e30, warm_start=0))
    with pytest.raises(FmucError, match="the loss is not finite in epoch 1.*lower training.learning_rate") as caught:
        t.train_epoch()
    index = int(re.search(r"step (\d) of 3,", one_line(caught))[1]) - 1
    patches = torch.cat(t.indices(index, unlabelled=True)).numpy()
    names = {t.dataset.clips[i].id for i in t.source.cache.clip_of_patch[patches]}
    assert sum(name in one_line(caught) for name in names) == 3
    assert f"and {len(names) - 3} more" in one_line(caught)
    assert index > 0  # the first loss is that of the initial weights


def test_features_that_are_not_finite_are_named_and_the_last_good_checkpoint_is_kept(trainable, tmp_path):
    t = trained(tmp_path, epochs=2)
    t.save_checkpoint()
    (kept,) = [path.read_bytes() for path in checkpoints.files(tmp_path)]
    before, second = (set(t.indices(index, unlabelled=True)[1].tolist()) for index in (6, 7))  # of the third epoch
    name = spoil(t, (second - before).pop())
    with pytest.raises(FmucError, match=rf"epoch 3, step 2 of 3.*not finite, of {name}: delete") as caught:
        t.train_epoch()
    assert "more" not in one_line(caught) and t.epoch == 2
    assert [path.read_bytes() for path in checkpoints.files(tmp_path)] == [kept]


# Bad input


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("change", "named"), [
    ({"features": replace(TINY, hop=256)}, r"no features under .* 'python -m fmuc features --dataset nsynth "),
    ({"labelled_share": 1.0}, "labelled_share"),
    ({"selection": replace(LOW_FMUC, rule="typo")}, "'typo'.*confidence, mean_minus_std, two_thresholds"),
    ({"network": replace(RUN.network, kind="typo")}, "'typo'.*cnn420"),
    ({"network": replace(RUN.network, dropout=0.0), "selection": LOW_FMUC}, "network.dropout"),
])
def test_what_cannot_be_trained_is_said_in_one_line(trainable, tmp_path, change, named):
    with pytest.raises(FmucError, match=named) as caught:
        train(replace(RUN, **change), device="cpu", folder=tmp_path / "run", progress=False)
    one_line(caught)
