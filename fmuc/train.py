"""Training: supervised, FixMatch and FMUC from one loop, on CPU and CUDA, resumable at any epoch (paper §III, §VI)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm import tqdm

from fmuc import pool, records
from fmuc.augment import augment
from fmuc.batches import PatchSource, stream
from fmuc.config import Augmentation, Run, Training
from fmuc.datasets import Dataset, load
from fmuc.devices import autocast, pick_device, precision
from fmuc.errors import FmucError
from fmuc.features import FeatureCache, open_cache
from fmuc.fixmatch import Batch, as_images, build, step
from fmuc.machinery import checkpoints
from fmuc.metrics import accuracy, filewise_probabilities, quality, quantity
from fmuc.paths import relative
from fmuc.selection import RULES, Memory, PseudoLabelCounts, check_rule, pseudo_label
from fmuc.splits import HELD_OUT, save_split, split_of
from fmuc.uncertainty import prediction_mode, weak_logits

# Second part of every seed, after the run's own; 1 is that of the labelled part's draw (fmuc.splits)
EPOCH, LABELLED, SUPERVISED, UNLABELLED, SNAPSHOT, POOL = 2, 3, 4, 5, 6, 8
EVALUATIONS = 10  # the last ones, whose mean is a run's accuracy


@torch.no_grad()
def predict(net: nn.Module, source: PatchSource, patches: np.ndarray, run: Run, batch: int = 512) -> np.ndarray:
    """Softmax of single patches, dropout off: patch indices (P,) -> (P, C) float32."""
    parts = []
    with prediction_mode(net, dropout=False), autocast(run, source.device):
        for start in range(0, max(len(patches), 1), batch):
            x = source.gather(torch.from_numpy(patches[start : start + batch]))
            parts.append(torch.softmax(net(as_images(x)).float(), dim=1).cpu())
    return torch.cat(parts).numpy()


def filewise(net: nn.Module, source: PatchSource, clips: np.ndarray, run: Run) -> np.ndarray:
    """Mean patch softmax of each file: clip indices (n,) ascending -> (n, C) (D10)."""
    patches = source.cache.patches_of(clips)
    return filewise_probabilities(predict(net, source, patches, run), source.cache.clip_of_patch[patches])


class Trainer:
    """One run from its first step to its record; stopped at any epoch, it goes on from its checkpoint.

    Every random draw of an epoch derives from (seed, epoch), and the sampler from the position in the stream, so that
    weights, optimiser and counts are the whole state.
    """

    def __init__(self, run: Run, dataset: Dataset, folder: Path, device: str = "auto") -> None:
        self.run, self.dataset, self.folder = run, dataset, folder
        self.device = pick_device(device)
        self.split = split_of(run, dataset)
        self.classes = dataset.classes if run.outside is None else dataset.classes[:-HELD_OUT]
        labels = dataset.labels()
        self.labels = np.where(labels < len(self.classes), labels, -1)  # of every clip
        if run.selection is not None:
            check_rule(run.selection, len(self.classes))
        self.source = PatchSource(open_cache(dataset, run.features), self.device)
        self.truth = torch.from_numpy(self.labels[self.source.cache.clip_of_patch]).to(self.device)  # (P,)
        self.labelled = self.source.cache.patches_of(self.split.labelled)
        self.unlabelled = self.source.cache.patches_of(self.split.unlabelled)
        self.validation = self._validation()
        replayed = run.selection is not None and run.selection.rule in RULES and run.seed == records.SEED
        self.scored = records.draw_patches(self.unlabelled if replayed else np.empty(0, np.int64), (run.seed, SNAPSHOT))
        if run.selection is not None and not len(self.unlabelled):
            raise FmucError(f"{run.name}: no unlabelled file is left to pseudo-label: lower labelled_share "
                            f"({run.labelled_share})")
        self.net, self.optimiser = build(run, len(self.classes), self.device)
        self.memory = Memory(len(self.unlabelled))
        if run.selection is not None and run.selection.passes:
            with prediction_mode(self.net, dropout=True):  # refuses a net without dropout, before the warm start
                pass
        self.rows: list[dict] = []  # history, one per epoch
        self.kept, self.seen = [], []  # counts, one per epoch
        self.snapshots: list[records.Snapshot] = []  # one per epoch of ``records.epochs``
        self.pool: list[dict[str, Tensor]] = []  # scores of all unlabelled patches, one per epoch of ``pool_epochs``
        self.correct: dict[str, list[np.ndarray]] = {"test": [], "unlabelled": []}  # by file, last ``EVALUATIONS``
        self.warmed = run.training.warm_start == 0
        self.codes = [records.code_digest()]  # versions of the code that trained it
        self.seconds = 0.0  # over all calls

    def _validation(self) -> np.ndarray:
        """Labelled patches of the valid split, where pseudo-labels cannot be checked otherwise; else none (D18)."""
        unknown = self.run.selection is not None and bool((self.truth[self.unlabelled] < 0).any())
        patches = self.source.cache.patches_of(self.dataset.indices("valid") if unknown else np.empty(0, np.int64))
        return patches[(self.truth[patches] >= 0).cpu().numpy()]

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.rows)

    def indices(self, step: int, unlabelled: bool) -> tuple[Tensor, Tensor]:
        """Labelled and, in the semi-supervised phase, unlabelled patches of global step ``step``."""
        training = self.run.training
        pools = [(LABELLED, self.labelled, training.labelled_batch),
                 (UNLABELLED, self.unlabelled, training.unlabelled_batch)]
        if not unlabelled:
            pools = [(SUPERVISED, self.labelled, training.supervised_batch), (UNLABELLED, self.unlabelled, 0)]
        part, rest = (torch.from_numpy(stream(pool, (self.run.seed, number), step * size, size))
                      for number, pool, size in pools)
        return part, rest

    def batch(self, step: int, unlabelled: bool) -> Batch:
        """Input of global step ``step``."""
        part, rest = self.indices(step, unlabelled)
        if not unlabelled:
            return Batch(self.source.gather(part), self.truth[part])
        return Batch(self.source.gather(part), self.truth[part], self.source.gather(rest), self.truth[rest],
                     torch.searchsorted(torch.from_numpy(self.unlabelled), rest).to(self.device))

    def seed_epoch(self, epoch: int) -> torch.Generator:
        """Seed dropout's global generator and return the generator of the views, from (seed, epoch) alone."""
        states = np.random.SeedSequence([self.run.seed, EPOCH, epoch]).generate_state(2, np.uint32)
        torch.manual_seed(int(states[0]))
        return torch.Generator(self.device).manual_seed(int(states[1]))

    def train_epoch(self) -> dict:
        """One epoch; returns and keeps its row of the history."""
        started = time.monotonic()
        training, epoch = self.run.training, self.epoch + 1
        if not self.warmed:
            self.warm_up()
        rng = self.seed_epoch(epoch)
        counts = PseudoLabelCounts(len(self.classes), self.device)
        first = self.epoch * training.iterations_per_epoch + (training.warm_start if self.run.selection is None else 0)
        steps = range(first, first + training.iterations_per_epoch)
        losses = self._steps(self.run, steps, f"epoch {epoch}", rng, counts)
        labelled, unlabelled = losses.mean(dim=0).tolist()
        kept, seen = counts.kept.cpu().numpy(), counts.seen.cpu().numpy()
        row = {"epoch": epoch, "loss_labelled": labelled, "loss_unlabelled": unlabelled,
               "quality": quality(kept), "quantity": quantity(kept, seen)}
        if epoch % training.evaluate_every == 0 or epoch == training.epochs:
            row |= self._evaluated()
            row |= self.estimate(rng) if len(self.validation) else {}
        if len(self.scored) and epoch in records.epochs(training.epochs):
            self.snapshots.append(self.snapshot(epoch))
        if epoch in self.pool_epochs():
            self.pool.append(self.score_pool(epoch))
        self.kept.append(kept)
        self.seen.append(seen)
        self.seconds += time.monotonic() - started
        self.rows.append(row | {"seconds": round(self.seconds, 2)})
        return self.rows[-1]

    def _steps(self, run: Run, steps: range, phase: str, rng: torch.Generator,
               counts: PseudoLabelCounts | None = None) -> Tensor:
        """Losses (steps, 2) of some steps; :class:`FmucError` names the first after which something is not finite."""
        semi = run.selection is not None
        self.net.train()
        losses = torch.stack([step(self.net, self.optimiser, self.batch(i, semi), run, rng, counts, self.memory)
                              for i in steps])
        bad = (~losses.isfinite().all(dim=1)).nonzero()
        if len(bad) or not _is_finite(self.net, self.optimiser):
            index, what = (int(bad[0]), "the loss is") if len(bad) else (len(steps) - 1, "the weights are")
            patches = torch.cat(self.indices(steps[index], semi)).numpy()
            raise FmucError(f"{run.name}: {what} not finite in {phase}, step {index + 1} of {len(steps)}, whose batch "
                            f"{_origin(patches, self.source.cache, self.dataset)}; what was saved before is kept, "
                            "and the same call goes on from there")
        return losses

    def warm_up(self) -> None:
        """Supervised steps before the first epoch (D12; none in the paper).

        They do not depend on the selection rule: the first run of a seed leaves their result beside the runs' folders,
        and the seed's other rows begin with it, bit for bit as if they had made the steps themselves.
        """
        place = self.folder.parent / "warm-starts"
        path = place / f"{self._warm_start_id()}.safetensors"
        with checkpoints.explained(place):
            place.mkdir(exist_ok=True)
            with FileLock(place / f".{path.name}.lock"):
                _remove_temporary(place)
                if not self._take_over(path):
                    supervised = replace(self.run, selection=None)
                    self._steps(supervised, range(self.run.training.warm_start), "the warm start", self.seed_epoch(0))
                    checkpoints.write(path, checkpoints.state(self.net, self.optimiser),
                                      {"code": records.code_digest()})
        self.warmed = True

    def _take_over(self, path: Path) -> bool:
        """Begin with the warm start at ``path``; False if there is no whole one that this code has made."""
        try:
            tensors, _ = checkpoints.read(path, code=records.code_digest())
        except checkpoints.Unusable:
            return False
        checkpoints.restore(self.net, self.optimiser, tensors)
        return True

    def _warm_start_id(self) -> str:
        """Of all that the warm start depends on, the arithmetic of this machine included."""
        training = self.run.training
        same = replace(self.run, variant="", selection=None, augmentation=Augmentation(weak=self.run.augmentation.weak),
                       training=Training(learning_rate=training.learning_rate, warm_start=training.warm_start,
                                         supervised_batch=training.supervised_batch,
                                         precision=precision(self.run, self.device)))
        return f"{same.id}-{self._identity()['data']}-{self.device.type}{torch.get_num_threads()}"

    @torch.no_grad()
    def estimate(self, rng: torch.Generator) -> dict[str, float]:
        """Quality and quantity that the run's rule has on weak views of the validation patches, as fractions.

        They stand in for the quality of pseudo-labels whose true classes nobody knows (D18).
        """
        counts, memory = PseudoLabelCounts(len(self.classes), self.device), deepcopy(self.memory)
        with autocast(self.run, self.device):
            for patches in torch.from_numpy(self.validation).split(self.run.training.unlabelled_batch):
                weak = augment(self.source.gather(patches), self.run.augmentation.weak, rng)
                memory.examples = torch.zeros_like(patches)  # of the copy: none of them is an unlabelled example
                counts.update(self.truth[patches], pseudo_label(self.net, as_images(weak), self.run.selection, memory))
        kept, seen = counts.kept.cpu().numpy(), counts.seen.cpu().numpy()
        return {"validation_quality": quality(kept), "validation_quantity": quantity(kept, seen)}

    def snapshot(self, epoch: int) -> records.Snapshot:
        """Scores of the run's few unlabelled patches as they are now; view and masks from (seed, epoch) alone."""
        view, masks = np.random.SeedSequence([self.run.seed, SNAPSHOT, epoch]).generate_state(2, np.uint32)
        x = self.source.gather(torch.from_numpy(self.scored))
        weak = augment(x, self.run.augmentation.weak, torch.Generator(self.device).manual_seed(int(view)))
        with autocast(self.run, self.device):
            return records.take(self.net, as_images(weak), self.run, int(masks))

    def pool_epochs(self) -> list[int]:
        """Epochs after which the pool is scored: half of the training and its end."""
        last = self.run.training.epochs
        return sorted({max(1, last // 2), last}) if self.run.training.scored_passes and len(self.unlabelled) else []

    def score_pool(self, epoch: int) -> dict[str, Tensor]:
        """Scores of weak views of all unlabelled patches: ``certainty`` and ``labels`` (S, P), and ``probabilities``
        (P, C) with dropout off. Nets trained on one split see the same views."""
        drawn = self.run.seed if self.run.split_seed is None else self.run.split_seed
        view, masks = np.random.SeedSequence([drawn, POOL, epoch]).generate_state(2, np.uint32)
        rng, parts = torch.Generator(self.device).manual_seed(int(view)), []
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), autocast(self.run, self.device):
            torch.manual_seed(int(masks))
            for patches in torch.from_numpy(self.unlabelled).split(512):
                x = as_images(augment(self.source.gather(patches), self.run.augmentation.weak, rng))
                plain, passes = (weak_logits(self.net, x, number) for number in (0, self.run.training.scored_passes))
                scores = list(pool.scores(plain[0], passes))
                parts.append({"certainty": torch.stack([score.certainty for score in scores]).half(),
                              "labels": torch.stack([score.labels for score in scores]).to(torch.int16),
                              "probabilities": plain[0].softmax(dim=1).half().T})
        merged = {name: torch.cat([part[name] for part in parts], dim=1).cpu() for name in parts[0]}
        return merged | {"probabilities": merged["probabilities"].T.contiguous()}

    def _evaluated(self) -> dict[str, float]:
        """Accuracies now, by their names in the history; which files are right is kept for the mean of the last."""
        row = {}
        for part, (_, probabilities, labels) in self.evaluate().items():
            row[f"{part}_accuracy"] = accuracy(probabilities, labels)
            self.correct[part] = [*self.correct[part], probabilities.argmax(axis=1) == labels][-EVALUATIONS:]
        return row

    def evaluate(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For "test" and "unlabelled": clip indices (n,), file-wise probabilities (n, C) and labels (n,)."""
        parts = {"test": self.split.test, "unlabelled": self.split.unlabelled}
        return {part: (clips, filewise(self.net, self.source, clips, self.run), self.labels[clips])
                for part, clips in parts.items()}

    def save_checkpoint(self) -> None:
        """Write the whole state into the folder, whole or not at all (see :mod:`fmuc.machinery.checkpoints`)."""
        tensors = checkpoints.state(self.net, self.optimiser)
        tensors |= {f"bands.{name}": torch.from_numpy(getattr(self.source.cache, name)) for name in ("mean", "std")}
        tensors |= {"kept": torch.from_numpy(np.stack(self.kept)), "seen": torch.from_numpy(np.stack(self.seen))}
        tensors |= {f"correct.{part}": torch.from_numpy(np.array(hits)) for part, hits in self.correct.items() if hits}
        tensors |= {f"memory.{name}": tensor.cpu() for name, tensor in self.memory.state.items()}
        for name in self.pool[0] if self.pool else ():
            tensors[f"pool.{name}"] = torch.stack([part[name] for part in self.pool])
        if self.snapshots:
            tensors |= {f"snapshots.{name}": part for name, part in records.stacked(self.snapshots).items()}
        with checkpoints.explained(self.folder):
            checkpoints.add(self.folder, self.epoch, tensors, {**self._identity(), "codes": self.codes,
                                                               "rows": self.rows, "seconds": self.seconds})
            pd.DataFrame(self.rows).to_csv(self.folder / "history.csv", index=False)  # to watch; the record's is final

    def load_checkpoint(self) -> bool:
        """Go on from the last usable checkpoint in the folder; False if there is none (see ``checkpoints.resume``)."""
        path = checkpoints.resume(self.folder, self._restore, **self._identity())
        if path is None:
            return False
        self.warmed = True
        if self.codes[-1] != records.code_digest():
            print(f"fmuc: {relative(path)} was made by another version of the code: the record will name both",
                  file=sys.stderr)
            self.codes.append(records.code_digest())
        return True

    def _identity(self) -> dict[str, str]:
        """What a checkpoint belongs to."""
        return {"run": self.run.id, "data": "-".join(_digests(self.dataset, self.source.cache, self.run).values())}

    def _restore(self, tensors: dict[str, Tensor], content: dict) -> None:
        checkpoints.restore(self.net, self.optimiser, tensors)
        self.rows, self.codes, self.seconds = content["rows"], content["codes"], content["seconds"]
        self.kept, self.seen = list(tensors["kept"].numpy()), list(tensors["seen"].numpy())
        self.correct = {part: list(tensors[f"correct.{part}"].numpy()) if f"correct.{part}" in tensors else []
                        for part in self.correct}
        self.memory.state = {name: tensor.to(self.device) for name, tensor in _under("memory.", tensors).items()}
        scored = _under("pool.", tensors)
        self.pool = [dict(zip(scored, parts, strict=True)) for parts in zip(*scored.values(), strict=True)]
        stored = [tensors.get(f"snapshots.{name}", ()) for name in records.Snapshot._fields]
        self.snapshots = [records.Snapshot(*parts) for parts in zip(*stored, strict=True)]

    def record(self) -> records.Record:
        """The finished run: its accuracies are means of the last ``EVALUATIONS``, its predictions the final ones."""
        results, files = {"labelled_files": len(self.split.labelled)}, {}
        for part, (clips, probabilities, labels) in self.evaluate().items():
            final = probabilities.argmax(axis=1) == labels
            correct, known = np.mean(self.correct[part] or [final], axis=0), labels >= 0
            results[f"{part}_files"] = len(labels)
            if known.any():
                results[f"{part}_accuracy"] = float(correct[known].mean())
                results[f"{part}_accuracy_last"] = accuracy(probabilities, labels)
            files |= {f"{part}_probabilities": probabilities.astype(np.float16), f"{part}_labels": labels,
                      f"{part}_correct": correct.astype(np.float16), f"{part}_ids": self._bytes(clips, "id"),
                      f"{part}_groups": self._bytes(clips, "group")}
        origin = records.provenance(str(self.device), torch.get_num_threads(), self.seconds)
        origin |= {"precision": precision(self.run, self.device)} | _digests(self.dataset, self.source.cache, self.run)
        origin |= {"codes": self.codes} if len(self.codes) > 1 else {}
        history = pd.DataFrame(self.rows).set_index("epoch")
        return records.Record(self.run, self.classes, results, origin, history, np.stack(self.kept),
                              np.stack(self.seen), files, self.scores(), self.pool_arrays())

    def _bytes(self, clips: np.ndarray, name: str) -> np.ndarray:
        """The ids or groups of clips (n,)."""
        return np.array([getattr(self.dataset.clips[clip], name).encode() for clip in clips], dtype="S")

    def pool_arrays(self) -> dict[str, np.ndarray]:
        """What :meth:`score_pool` found, as the arrays of a record (see ``Record.pool``); none for a run without."""
        if not self.pool:
            return {}
        names = [score.name.encode() for score in
                 pool.scores(torch.zeros(1, 2), torch.zeros(self.run.training.scored_passes, 1, 2))]
        return {"epochs": np.array(self.pool_epochs()), "names": np.array(names, dtype="S"),
                "truth": self.truth[torch.from_numpy(self.unlabelled)].cpu().numpy(),
                "groups": self._bytes(self.source.cache.clip_of_patch[self.unlabelled], "group"),
                **{name: np.stack([part[name].numpy() for part in self.pool]) for name in self.pool[0]}}

    def scores(self) -> dict[str, np.ndarray]:
        """The snapshots as the arrays of a record (see ``Record.scores``); none for a run without."""
        if not self.snapshots:
            return {}
        cache = self.source.cache
        clips = cache.clip_of_patch[self.scored]
        arrays = {name: part.numpy() for name, part in records.stacked(self.snapshots).items()}
        return {"epochs": np.array(records.epochs(self.run.training.epochs)), "patches": self.scored,
                "ids": self._bytes(clips, "id"),
                "offset": self.scored - np.searchsorted(cache.clip_of_patch, clips),
                "truth": self.truth[torch.from_numpy(self.scored)].cpu().numpy(), **arrays}


def train(run: Run, *, device: str = "auto", folder: Path, progress: bool = True, force: bool = False,
          on_epoch: Callable[[dict], None] | None = None) -> records.Record:
    """Train ``run`` in ``folder`` (created) from its last checkpoint, if any, and write its record.

    A finished run is not trained again unless its data have changed or ``force`` is set; then the old one is kept
    aside. No run is trained by two processes at once. ``on_epoch`` gets each new row of the history. Interrupting, by
    whatever signal, loses at most the current epoch (or the warm start before the first). Raises :class:`FmucError` for
    unusable input, losses that are not finite, and a folder that cannot be written.
    """
    if not force and len(checkpoints.files(folder)) <= 1 and (record := _finished(run, folder)):
        return record
    with checkpoints.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if force or not _finished(run, folder):  # another process may have finished it meanwhile
            with checkpoints.explained(folder):
                _remove_temporary(folder)
                if force or records.is_finished(folder):
                    _set_aside(folder, "asked to train it again" if force else "it was trained on other data")
            _train(Trainer(run, load(run.dataset), folder, device), progress, on_epoch)
        with checkpoints.explained(folder):
            checkpoints.keep_last(folder)
    return records.load_record(folder)


def _finished(run: Run, folder: Path) -> records.Record | None:
    """The record of the finished run, if it is of the present data; :class:`FmucError` for one of another run."""
    if not records.is_finished(folder):
        return None
    record = records.load_record(folder)
    if record.run != run:
        raise FmucError(f"{relative(folder)}: holds the record of run {record.run.name}, not of {run.name}: "
                        "use another folder or delete it")
    if not is_current(run, folder):
        return None
    if record.provenance["code"] != records.code_digest():
        print(f"fmuc: {relative(folder)}: trained by another version of the code and used as it is; --force trains it "
              "again", file=sys.stderr)
    return record


def is_current(run: Run, folder: Path, data: tuple[Dataset, FeatureCache] | None = None) -> bool:
    """Whether ``folder`` holds the finished run, trained on the data set, features and split that there are now.

    ``data``: the data set and its features, for a caller that has them.
    """
    if not records.is_finished(folder):
        return False
    return records.belongs(folder, run, _digests(*(data or load_data(run)), run))


def load_data(run: Run) -> tuple[Dataset, FeatureCache]:
    """The data set of a run and its features; :class:`FmucError` where one of them is missing or damaged."""
    dataset = load(run.dataset)
    return dataset, open_cache(dataset, run.features)


def _digests(dataset: Dataset, cache: FeatureCache, run: Run) -> dict[str, str]:
    """The data that determine a run's result."""
    return {"dataset_digest": dataset.digest, "features_digest": cache.digest,
            "split_digest": split_of(run, dataset).digest}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _train(trainer: Trainer, progress: bool, on_epoch: Callable[[dict], None] | None) -> None:
    try:
        trainer.load_checkpoint()
    except checkpoints.Foreign as error:
        _set_aside(trainer.folder, str(error))
    run, epochs = trainer.run, trainer.run.training.epochs
    with (tqdm(total=epochs, initial=trainer.epoch, desc=f"{run.variant}, seed {run.seed}", unit="epoch",
               disable=not progress) as bar, _tensorboard(trainer.folder) as log):
        while trainer.epoch < epochs:
            row = trainer.train_epoch()
            trainer.save_checkpoint()
            bar.set_postfix_str(describe(row))
            bar.update()
            for follow in filter(None, (log, on_epoch)):
                follow(row)
    with checkpoints.explained(trainer.folder):
        save_split(trainer.split, trainer.dataset, trainer.folder / "split.json")
        records.save_record(trainer.record(), trainer.folder)


def describe(row: dict) -> str:
    """A row of the history in a few words."""
    text = f"loss {row['loss_labelled'] + row['loss_unlabelled']:.3f}"
    if not np.isnan(row["quantity"]):
        text += f", quality {_share(row['quality'])}, quantity {row['quantity']:.1%}"
    if "validation_quality" in row:
        text += f", quality on validation files {_share(row['validation_quality'])}"
    return text + (f", test {_share(row['test_accuracy'])}" if "test_accuracy" in row else "")


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1%}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a second process waits, and then finds the run finished or goes on with it."""
    lock = FileLock(folder / ".lock")
    with checkpoints.explained(folder):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"fmuc: {relative(folder)}: another process trains this run: waiting for it", file=sys.stderr)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Callable[[dict], None] | None]:
    """A function that logs a row of the history for TensorBoard, if that is installed (the extra ``tensorboard``)."""
    if find_spec("tensorboard") is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        yield lambda row: [writer.add_scalar(name, value, row["epoch"]) for name, value in row.items()]


def _set_aside(folder: Path, reason: str) -> None:
    """Move a run's files, but for its lock, to ``replaced/`` beside its folder: nothing is deleted."""
    if not (old := [path for path in folder.iterdir() if path.name != ".lock"]):
        return
    number = 1
    while (place := folder.parent / "replaced" / f"{folder.name}.{number}").exists():
        number += 1
    place.mkdir(parents=True)
    for path in sorted(old, key=lambda path: path.name != "run.json"):  # without it, the run is not finished any more
        os.replace(path, place / path.name)
    print(f"fmuc: {relative(folder)}: {reason}; the old files are kept in {relative(place)}", file=sys.stderr)


def _remove_temporary(folder: Path) -> None:
    """Remove what killed processes left half written; their lock must be held."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _is_finite(net: nn.Module, optimiser: torch.optim.Optimizer) -> bool:
    """Whether weights, running statistics and moments are: a last step can spoil them though its loss was finite."""
    moments = [value for part in optimiser.state.values() for value in part.values()]
    checks = [value.isfinite().all() for value in (*net.state_dict().values(), *moments)]
    return bool(torch.stack([check.to(checks[0].device) for check in checks]).all())


def _origin(patches: np.ndarray, cache: FeatureCache, dataset: Dataset) -> str:
    """What the batch of ``patches`` (B,) was made of, and the remedy: the end of an error message."""
    broken = patches[~np.isfinite(cache.patches[patches]).all(axis=(1, 2))]
    names = [dataset.clips[i].id for i in cache.clip_of_patch[broken if len(broken) else patches]]
    if len(broken):
        return (f"holds features that are not finite, of {_few(names)}: delete the features of {dataset.name} and make "
                "them again ('python -m fmuc features')")
    return (f"was made of {_few(names)}: lower training.learning_rate, or look at these files "
            f"('python -m fmuc data check {dataset.name}')")


def _few(names: Sequence[str], shown: int = 3) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - shown} more" if len(distinct) > shown else ""
    return ", ".join(distinct[:shown]) + more
