"""Training: supervised, FixMatch and FMUC from one code path, on CPU and CUDA (paper §I, §III, §V-A)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from fmuc import checkpoints
from fmuc import records as snapshots
from fmuc.augment import augment
from fmuc.compiling import compile_net
from fmuc.config import Augmentation, Run, Training
from fmuc.datasets import Dataset, load
from fmuc.devices import autocast, pick_device, precision
from fmuc.divergence import FirstBadStep, is_finite, of_batch
from fmuc.errors import FmucError
from fmuc.features import FeatureCache, open_cache
from fmuc.metrics import accuracy, filewise_probabilities, quality, quantity
from fmuc.model import CNN420
from fmuc.paths import relative
from fmuc.records import Record, code_digest, is_finished, load_record, provenance, save_record
from fmuc.selection import PseudoLabelCounts, PseudoLabels, pseudo_label
from fmuc.splits import draw_split, save_split
from fmuc.uncertainty import prediction_mode

# Second part of every seed, after the run's own; 1 is that of the labelled part's draw (fmuc.splits)
EPOCH, LABELLED, SUPERVISED, UNLABELLED, SNAPSHOT = 2, 3, 4, 5, 6
RESIDENT_BYTES = 4 * 2**30  # patches up to this size are copied to the device once (on CUDA: if they fit)


class PatchSource:
    """Normalised patches on the device: resident when they fit, else gathered from the memory map batch by batch."""

    def __init__(self, cache: FeatureCache, device: torch.device) -> None:
        self.cache, self.device = cache, device
        free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else RESIDENT_BYTES
        dtype = torch.float32 if device.type == "cpu" else torch.float16
        self.resident: Tensor | None = None
        if cache.patches.size * dtype.itemsize <= free:
            self.resident = torch.empty(cache.patches.shape, dtype=dtype, device=device)
            for start in range(0, len(cache.patches), 256):  # by pieces: what is copied on the way stays small
                rows = np.arange(start, min(start + 256, len(cache.patches)))
                self.resident[start : start + len(rows)] = torch.from_numpy(cache.normalised(rows))

    def gather(self, patches: Tensor) -> Tensor:
        """Patch indices (B,) -> (B, F, T) float32."""
        if self.resident is not None:
            return self.resident.index_select(0, patches.to(self.device)).float()
        rows = torch.from_numpy(self.cache.normalised(patches.cpu().numpy()))
        return rows.to(self.device, non_blocking=True)

    def prefetch(self, patches: Tensor) -> None:
        """Let the disk read what the next :meth:`gather` will ask for, meanwhile."""
        if self.resident is None:
            self.cache.prefetch(patches.cpu().numpy())


@lru_cache(maxsize=4)  # labelled and unlabelled stream, this lap and the next
def _order(size: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(size)


def stream(pool: np.ndarray, seed: tuple[int, ...], start: int, count: int) -> np.ndarray:
    """Entries ``start`` ... ``start + count`` of an endless shuffling of ``pool``.

    Each pass over the pool is a fresh permutation derived from ``seed`` and the pass's number, so that a position
    alone (no generator state) tells what comes next: resuming is exact.
    """
    parts, position, end = [], start, start + count
    while position < end:
        lap, offset = divmod(position, len(pool))
        parts.append(pool[_order(len(pool), (*seed, lap))[offset : offset + end - position]])
        position += len(parts[-1])
    return np.concatenate(parts) if parts else pool[:0]


@dataclass(frozen=True)
class Batch:
    """One step's input on the device: patches (B, F, T) and labels (B,); unlabelled truth (-1 unknown) for counts."""

    labelled: Tensor
    labels: Tensor
    unlabelled: Tensor | None
    truth: Tensor | None


def as_images(x: Tensor) -> Tensor:
    """(B, F, T) -> (B, 1, F, T), channels last."""
    return x[:, None].contiguous(memory_format=torch.channels_last)


def semi_supervised_loss(
    logits_labelled: Tensor, labels: Tensor, logits_strong: Tensor, pseudo: PseudoLabels
) -> tuple[Tensor, Tensor]:
    """Labelled and unlabelled cross-entropy; their plain sum is the training loss (§I).

    The unlabelled part is averaged over all B unlabelled examples, kept or not (FixMatch [2], D4).
    """
    labelled = functional.cross_entropy(logits_labelled.float(), labels)
    each = functional.cross_entropy(logits_strong.float(), pseudo.labels, reduction="none")  # (B,)
    return labelled, (each * pseudo.mask).mean()


def step(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    run: Run,
    rng: torch.Generator,
    counts: PseudoLabelCounts | None = None,
) -> Tensor:
    """One optimiser step; returns the detached (labelled, unlabelled) losses, (2,), still on the device."""
    device = batch.labelled.device
    x = augment(batch.labelled, run.augmentation.weak, rng)
    with autocast(run, device):
        if run.selection is None or batch.unlabelled is None:
            labelled = functional.cross_entropy(net(as_images(x)).float(), batch.labels)
            unlabelled = torch.zeros_like(labelled)
        else:
            weak = augment(batch.unlabelled, run.augmentation.weak, rng)
            strong = augment(batch.unlabelled, run.augmentation.strong, rng)
            pseudo = pseudo_label(net, as_images(weak), run.selection)
            logits = net(as_images(torch.cat([x, strong])))
            labelled, unlabelled = semi_supervised_loss(logits[: len(x)], batch.labels, logits[len(x) :], pseudo)
            if counts is not None:
                counts.update(batch.truth, pseudo)
    optimiser.zero_grad(set_to_none=True)
    (labelled + unlabelled).backward()
    optimiser.step()
    return torch.stack([labelled.detach(), unlabelled.detach()])


def build(run: Run, classes: int, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Freshly initialised net (from the run's seed) and Adam (§III)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        net = CNN420(classes, run.network)
    net = net.to(device).to(memory_format=torch.channels_last)
    return net, torch.optim.Adam(net.parameters(), lr=run.training.learning_rate, fused=True)


@torch.no_grad()
def predict(net: nn.Module, source: PatchSource, patches: np.ndarray, run: Run, batch: int = 512) -> np.ndarray:
    """Softmax of single patches, dropout off: patch indices (P,) -> (P, C) float32."""
    parts = []
    with prediction_mode(net, dropout=False), autocast(run, source.device):
        for start in range(0, len(patches), batch):
            x = source.gather(torch.from_numpy(patches[start : start + batch]))
            parts.append(torch.softmax(net(as_images(x)).float(), dim=1).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, net.head.out_features), dtype=np.float32)


def filewise(net: nn.Module, source: PatchSource, clips: np.ndarray, run: Run) -> np.ndarray:
    """Mean patch softmax of each file: clip indices (n,) ascending -> (n, C) (D10)."""
    patches = source.cache.patches_of(clips)
    return filewise_probabilities(predict(net, source, patches, run), source.cache.clip_of_patch[patches])


class Trainer:
    """One run from its first step to its record; stopped at any epoch, it goes on from its checkpoint.

    Every random draw of an epoch derives from (seed, epoch), and the sampler from the position in the stream, so that
    weights, optimiser and counts are the whole state.
    """

    def __init__(self, run: Run, dataset: Dataset, folder: Path, device: str = "auto", compiled: bool = False) -> None:
        self.run, self.dataset, self.folder, self.compiled = run, dataset, folder, compiled
        self.device = pick_device(device)
        self.split = draw_split(dataset, run.labelled_share, run.seed, run.labels)
        self.source = PatchSource(open_cache(dataset, run.features), self.device)
        self.truth = torch.from_numpy(dataset.labels()[self.source.cache.clip_of_patch]).to(self.device)  # (P,)
        self.labelled = self.source.cache.patches_of(self.split.labelled)
        self.unlabelled = self.source.cache.patches_of(self.split.unlabelled)
        self.validation = self._validation()
        scored = self.unlabelled if run.selection is not None and run.seed == snapshots.SEED else np.empty(0, np.int64)
        self.scored = snapshots.draw_patches(scored, (run.seed, SNAPSHOT))
        if run.selection is not None and not len(self.unlabelled):
            raise FmucError(f"{run.name}: no unlabelled file is left to pseudo-label: lower run.labelled_share "
                            f"({run.labelled_share})")
        self._build()
        self.rows: list[dict] = []  # history, one per epoch
        self.kept, self.seen = [], []  # counts, one per epoch
        self.snapshots: list[snapshots.Snapshot] = []  # one per epoch of ``snapshots.epochs``
        self.warmed = run.training.warm_start == 0 or run.selection is None
        self.codes = [code_digest()]  # versions of the code that trained it
        self.seconds = 0.0  # over all calls

    def _build(self) -> None:
        self.net, self.optimiser = build(self.run, len(self.dataset.classes), self.device)
        if self.compiled:
            x = self.source.gather(torch.from_numpy(self.labelled[: self.run.training.labelled_batch]))
            with autocast(self.run, self.device):
                problem = compile_net(self.net, as_images(x), self.run)
            if problem:
                self.compiled = False
                print(f"{self.run.name}: not compiled, training goes on without ({problem})", file=sys.stderr)

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
        """Input of global step ``step``: labelled and, in the semi-supervised phase, unlabelled patches."""
        part, rest = self.indices(step, unlabelled)
        x, labels = self.source.gather(part), self.truth[part]
        batch = Batch(x, labels, *((self.source.gather(rest), self.truth[rest]) if unlabelled else (None, None)))
        self.source.prefetch(torch.cat(self.indices(step + 1, unlabelled)))
        return batch

    def seed_epoch(self, epoch: int) -> torch.Generator:
        """Seed dropout's global generator and return the generator of the views, from (seed, epoch) alone."""
        states = np.random.SeedSequence([self.run.seed, EPOCH, epoch]).generate_state(2, np.uint32)
        torch.manual_seed(int(states[0]))
        return torch.Generator(self.device).manual_seed(int(states[1]))

    def warm_up(self) -> None:
        """Supervised steps on the labelled part before the first pseudo-label (D12; none in the paper).

        They do not depend on the selection rule: the first run of a seed leaves their result beside the runs' folders,
        and the seed's other rows begin with it, bit for bit as if they had made the steps themselves.
        """
        place = self.folder.parent / "warm-starts"
        path = place / f"{self._warm_start_id()}.safetensors"
        with checkpoints.explained(place):
            place.mkdir(exist_ok=True)
            with FileLock(place / f".{path.name}.lock"):
                checkpoints.clean(place, f".{path.name}.*.tmp")
                if not self._take_over(path):
                    self._warm_steps()
                    checkpoints.write(path, checkpoints.state(self.net, self.optimiser), {"code": code_digest()})
        self.warmed = True

    def _take_over(self, path: Path) -> bool:
        """Begin with the warm start at ``path``; False if there is none, or none that this code has made."""
        if not path.exists():
            return False
        try:
            checkpoints.restore(self.net, self.optimiser, checkpoints.read(path, code=code_digest())[0])
        except checkpoints.Foreign:
            return False
        except Exception as error:  # damaged, and perhaps half restored
            print(f"fmuc: {relative(path)} is damaged ({' '.join(str(error).split())}): the warm start is made again",
                  file=sys.stderr)
            self._build()
            return False
        return True

    def _warm_steps(self) -> None:
        rng, bad = self.seed_epoch(0), FirstBadStep(self.device)
        supervised = replace(self.run, selection=None)
        for index in range(self.run.training.warm_start):
            bad.add(index, step(self.net, self.optimiser, self.batch(index, unlabelled=False), supervised, rng))
        self._require_finite(bad, "the warm start", range(self.run.training.warm_start), unlabelled=False)

    def _warm_start_id(self) -> str:
        """Of all that the warm start depends on, the arithmetic of this machine included."""
        training = self.run.training
        same = replace(self.run, variant="", selection=None, augmentation=Augmentation(weak=self.run.augmentation.weak),
                       training=Training(learning_rate=training.learning_rate, warm_start=training.warm_start,
                                         supervised_batch=training.supervised_batch,
                                         precision=precision(self.run, self.device)))
        arithmetic = f"{self.device.type}{torch.get_num_threads()}"
        return f"{same.id}-{self.dataset.digest}-{self.split.digest}-{arithmetic}"

    def train_epoch(self) -> dict:
        """One epoch; returns and keeps its row of the history."""
        started = time.monotonic()
        training, semi = self.run.training, self.run.selection is not None
        if not self.warmed:
            self.warm_up()
        rng = self.seed_epoch(self.epoch + 1)
        counts = PseudoLabelCounts(len(self.dataset.classes), self.device)
        losses, bad = torch.zeros(2, device=self.device), FirstBadStep(self.device)
        first = self.epoch * training.iterations_per_epoch
        steps = range(first, first + training.iterations_per_epoch)
        self.net.train()
        for index in steps:
            both = step(self.net, self.optimiser, self.batch(index, unlabelled=semi), self.run, rng, counts)
            losses += both
            bad.add(index, both)
        self._require_finite(bad, f"epoch {self.epoch + 1}", steps, semi)
        labelled, unlabelled = (losses / training.iterations_per_epoch).tolist()
        kept, seen = counts.kept.cpu().numpy(), counts.seen.cpu().numpy()
        row = {"epoch": self.epoch + 1, "loss_labelled": labelled, "loss_unlabelled": unlabelled,
               "quality": quality(kept), "quantity": quantity(kept, seen)}
        if row["epoch"] % training.evaluate_every == 0 or row["epoch"] == training.epochs:
            row |= {f"{part}_accuracy": accuracy(p, y) for part, (_, p, y) in self.evaluate().items()}
            row |= self.estimate(rng) if len(self.validation) else {}
        if len(self.scored) and row["epoch"] in snapshots.epochs(training.epochs):
            self.snapshots.append(self.snapshot(row["epoch"]))
        self.kept.append(kept)
        self.seen.append(seen)
        self.seconds += time.monotonic() - started
        self.rows.append(row | {"seconds": round(self.seconds, 2)})
        return self.rows[-1]

    def _require_finite(self, bad: FirstBadStep, phase: str, steps: range, unlabelled: bool) -> None:
        """:class:`FmucError` that names the step from which on losses or weights are not finite, and its files."""
        index, what = bad.item(), "the loss is"
        if index < 0:
            if is_finite(self.net, self.optimiser):
                return
            index, what = steps[-1], "the weights are"  # since the last step, whose loss was computed before
        batch = of_batch(torch.cat(self.indices(index, unlabelled)).numpy(), self.source.cache, self.dataset)
        raise FmucError(f"{self.run.name}: {what} not finite in {phase}, step {index - steps[0] + 1} of {len(steps)}, "
                        f"whose batch {batch}; what was saved before is kept, and the same call goes on from there to "
                        "the same end")

    def estimate(self, rng: torch.Generator) -> dict[str, float]:
        """Quality and quantity that the run's rule has on weak views of the validation patches, as fractions.

        They stand in for the quality of pseudo-labels whose true classes nobody knows (D18).
        """
        counts = PseudoLabelCounts(len(self.dataset.classes), self.device)
        size = self.run.training.unlabelled_batch
        with autocast(self.run, self.device):
            for start in range(0, len(self.validation), size):
                patches = torch.from_numpy(self.validation[start : start + size])
                weak = augment(self.source.gather(patches), self.run.augmentation.weak, rng)
                counts.update(self.truth[patches], pseudo_label(self.net, as_images(weak), self.run.selection))
        kept, seen = counts.kept.cpu().numpy(), counts.seen.cpu().numpy()
        return {"validation_quality": quality(kept), "validation_quantity": quantity(kept, seen)}

    def snapshot(self, epoch: int) -> snapshots.Snapshot:
        """Scores of the run's few unlabelled patches as they are now; view and masks from (seed, epoch) alone."""
        view, masks = np.random.SeedSequence([self.run.seed, SNAPSHOT, epoch]).generate_state(2, np.uint32)
        x = self.source.gather(torch.from_numpy(self.scored))
        weak = augment(x, self.run.augmentation.weak, torch.Generator(self.device).manual_seed(int(view)))
        with autocast(self.run, self.device):
            return snapshots.take(self.net, as_images(weak), self.run, int(masks))

    def evaluate(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For "test" and "unlabelled": clip indices (n,), file-wise probabilities (n, C) and labels (n,)."""
        labels = self.dataset.labels()
        parts = {"test": self.split.test, "unlabelled": self.split.unlabelled}
        return {part: (clips, filewise(self.net, self.source, clips, self.run), labels[clips])
                for part, clips in parts.items()}

    def save_checkpoint(self) -> None:
        """Write the whole state into the folder, whole or not at all (see :mod:`fmuc.checkpoints`)."""
        tensors = checkpoints.state(self.net, self.optimiser)
        tensors |= {f"bands.{name}": torch.from_numpy(getattr(self.source.cache, name)) for name in ("mean", "std")}
        if self.kept:
            tensors |= {"kept": torch.from_numpy(np.stack(self.kept)), "seen": torch.from_numpy(np.stack(self.seen))}
        if self.snapshots:
            tensors |= {f"snapshots.{name}": part for name, part in snapshots.stacked(self.snapshots).items()}
        with checkpoints.explained(self.folder):
            checkpoints.add(self.folder, self.epoch, tensors, {**self._identity(), "codes": self.codes,
                                                               "rows": self.rows, "seconds": self.seconds})

    def load_checkpoint(self) -> bool:
        """Go on from the last usable checkpoint in the folder; False if there is none (see ``checkpoints.resume``)."""
        path = checkpoints.resume(self.folder, self._restore, **self._identity())
        if path is None:
            return False
        self.warmed = True
        if self.codes[-1] != code_digest():
            print(f"fmuc: {relative(path)} was made by another version of the code: the record will name both",
                  file=sys.stderr)
            self.codes.append(code_digest())
        return True

    def _identity(self) -> dict[str, str]:
        """What a checkpoint belongs to."""
        return {"run": self.run.id, "data": f"{self.dataset.digest}-{self.split.digest}"}

    def _restore(self, tensors: dict[str, Tensor], content: dict) -> None:
        checkpoints.restore(self.net, self.optimiser, tensors)
        rows, kept, seen = content["rows"], list(tensors["kept"].numpy()), list(tensors["seen"].numpy())
        if not len(rows) == len(kept) == len(seen) or [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
            raise ValueError("history and counts are not of the same epochs")
        stored = [tensors.get(f"snapshots.{name}", ()) for name in snapshots.Snapshot._fields]
        taken = [snapshots.Snapshot(*parts) for parts in zip(*stored, strict=True)]
        due = [epoch for epoch in snapshots.epochs(self.run.training.epochs) if epoch <= len(rows)]
        if len(taken) != (len(due) if len(self.scored) else 0):
            raise ValueError("the snapshots are not those of its epochs")
        self.rows, self.kept, self.seen, self.snapshots = rows, kept, seen, taken
        self.codes, self.seconds = list(content["codes"]), float(content["seconds"])

    def record(self) -> Record:
        """The finished run with its final file-wise predictions."""
        parts = self.evaluate()
        results = {f"{part}_accuracy": accuracy(p, y) for part, (_, p, y) in parts.items() if (y >= 0).any()}
        results |= {f"{part}_files": len(y) for part, (_, _, y) in parts.items()}
        results["labelled_files"] = len(self.split.labelled)
        files = {}
        for part, (clips, probabilities, labels) in parts.items():
            ids = [self.dataset.clips[i].id.encode() for i in clips]
            files |= {f"{part}_probabilities": probabilities.astype(np.float16), f"{part}_labels": labels,
                      f"{part}_ids": np.array(ids, dtype="S")}
        origin = provenance(str(self.device), torch.get_num_threads(), self.seconds)
        origin |= {"precision": precision(self.run, self.device), "compiled": self.compiled,
                   "dataset_digest": self.dataset.digest, "split_digest": self.split.digest}
        origin |= {"codes": self.codes} if len(self.codes) > 1 else {}
        history = pd.DataFrame(self.rows).set_index("epoch")
        return Record(self.run, self.dataset.classes, results, origin, history, np.stack(self.kept),
                      np.stack(self.seen), files, self.scores())

    def scores(self) -> dict[str, np.ndarray]:
        """The snapshots as the arrays of a record (see ``Record.scores``); none for a run without."""
        if not self.snapshots:
            return {}
        cache = self.source.cache
        clips = cache.clip_of_patch[self.scored]
        arrays = {name: part.numpy() for name, part in snapshots.stacked(self.snapshots).items()}
        return {"epochs": np.array(snapshots.epochs(self.run.training.epochs)), "patches": self.scored,
                "ids": np.array([self.dataset.clips[clip].id.encode() for clip in clips], dtype="S"),
                "offset": self.scored - np.searchsorted(cache.clip_of_patch, clips),
                "truth": self.truth[torch.from_numpy(self.scored)].cpu().numpy(), **arrays}


def train(run: Run, *, device: str = "auto", folder: Path, progress: bool = True, compiled: bool = False,
          on_epoch: Callable[[dict], None] | None = None) -> Record:
    """Train ``run`` in ``folder`` (created) from its last checkpoint, if any, and write its record.

    A finished run is not trained again, and no run by two processes at once. ``on_epoch`` gets each new row of the
    history. Interrupting, by whatever signal, loses at most the current epoch (or the warm start before the first).
    ``compiled``: with CUDA graphs where that is possible. Raises :class:`FmucError` for unusable input, checkpoints of
    something else, losses that are not finite, and a folder that cannot be written.
    """
    with checkpoints.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not is_finished(folder) or len(checkpoints.files(folder)) > 1:
        with _alone(folder):
            with checkpoints.explained(folder):
                checkpoints.clean(folder)
            if not is_finished(folder):
                _train(Trainer(run, load(run.dataset), folder, device, compiled), progress, on_epoch)
            with checkpoints.explained(folder):
                checkpoints.keep_last(folder)
    record = load_record(folder)
    if record.run != run:
        raise FmucError(f"{relative(folder)}: holds the record of run {record.run.name}, not of {run.name}: "
                        "use another folder or delete it")
    return record


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
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


def _train(trainer: Trainer, progress: bool, on_epoch: Callable[[dict], None] | None) -> None:
    trainer.load_checkpoint()
    run, epochs = trainer.run, trainer.run.training.epochs
    with tqdm(total=epochs, initial=trainer.epoch, desc=f"{run.variant}, seed {run.seed}", unit="epoch",
              disable=not progress) as bar:
        while trainer.epoch < epochs:
            row = trainer.train_epoch()
            trainer.save_checkpoint()
            bar.set_postfix_str(describe(row))
            bar.update()
            if on_epoch:
                on_epoch(row)
    with checkpoints.explained(trainer.folder):
        save_split(trainer.split, trainer.dataset, trainer.folder / "split.json")
        save_record(trainer.record(), trainer.folder)


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
