# %% setup
import torch
from torch import Tensor
from torch.nn import functional

from fmuc.teaching.exercises import check

# %% exercise: What FixMatch keeps
# From the logits of the weak views to pseudo-labels: the class of each example, and whether its softmax confidence
# reaches the threshold (§I).
#
# hint: Axis 0 counts the examples of the batch, the last axis the classes.
# hint: The threshold is one of a probability; logits have no upper limit.
def keep(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(B, C) logits -> classes (B,) and whether they are kept (B,), boolean."""
    ### BEGIN SOLUTION
    confidence, labels = torch.softmax(logits, dim=1).max(dim=1)
    return labels, confidence >= threshold
    ### END SOLUTION

# %% cases
logits = 3 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
cases = [(logits, 0.8), (torch.tensor([[5.0, 0.0], [0.4, 0.5], [1.0, 1.5]]), 0.95)]

# %% wrong
# torch.softmax(logits, dim=1).max(dim=1) => torch.softmax(logits, dim=0).max(dim=1)
#   The softmax runs over the examples (dim=0): then the batch competes for each class. Probabilities of one
#   example, along dim=1, must add up to 1.
# torch.softmax(logits, dim=1).max(dim=1) => torch.softmax(logits, dim=1).max(dim=0)
#   The maximum is taken over the examples (dim=0): that gives the example that is surest of each class, (C,)
#   values. The class of each example is the maximum along dim=1.
# torch.softmax(logits, dim=1).max(dim=1) => logits.max(dim=1)
#   The threshold is compared with logits. A logit of 1 says nothing by itself; take the softmax first.
# confidence >= threshold => confidence < threshold
#   The mask is the wrong way round: it keeps what the network is not sure of.

# %% exercise: The loss of the unlabelled part
# Cross-entropy of the strong views against the pseudo-labels, summed over those that are kept, and divided by the
# number of *all* unlabelled examples of the batch, as in FixMatch (deviation D4).
#
# hint: `functional.cross_entropy` takes logits; with `reduction="none"` it gives one loss for each example.
# hint: What is the loss of a batch of which nothing is kept?
def unlabelled_loss(strong_logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """(B, C) logits, (B,) classes, (B,) boolean -> the loss, a scalar."""
    ### BEGIN SOLUTION
    losses = functional.cross_entropy(strong_logits, labels, reduction="none")
    return (losses * kept).mean()
    ### END SOLUTION

# %% cases
rng, labels = torch.Generator().manual_seed(0), torch.tensor([0, 2, 1, 1])
cases = [(torch.randn(4, 3, generator=rng), labels, torch.tensor([True, False, True, False])),
         (torch.randn(4, 3, generator=rng), labels, torch.zeros(4, dtype=torch.bool))]

# %% wrong
# (losses * kept).mean() => losses[kept].mean()
#   This is the mean over the kept examples only: a batch that keeps one pseudo-label pulls as hard as one that
#   keeps all, and a batch that keeps none gives NaN. FixMatch divides by the number of all unlabelled examples.
# (losses * kept).mean() => losses.mean()
#   The mask has no effect: rejected pseudo-labels train the network, too.
# (losses * kept).mean() => (losses * kept).sum()
#   The sum is not divided by the number of unlabelled examples: the loss would grow with the batch.
# functional.cross_entropy(strong_logits, labels => functional.cross_entropy(strong_logits.softmax(dim=1), labels
#   A softmax is applied twice: cross_entropy takes logits and has its own. Fed with probabilities, the loss of an
#   example cannot fall below 0.55 with three classes, however right and sure it is.

# %% exercise: Translation in time
# A patch is moved by whole frames, to the right for a positive number. What leaves one edge is lost; at the other edge
# the first (or last) frame is repeated. The patch itself must stay as it is: the strong view starts from the same one.
#
# hint: Frame t of the result is frame t − frames of the patch: write down these indices for all t.
# hint: `Tensor.clamp` keeps indices between the first and the last frame.
def translate(patch: Tensor, frames: int) -> Tensor:
    """(F, T) -> (F, T), ``frames`` later."""
    ### BEGIN SOLUTION
    source = torch.arange(patch.shape[1]) - frames
    return patch[:, source.clamp(0, patch.shape[1] - 1)]
    ### END SOLUTION

# %% cases
patch = torch.arange(12.0).view(3, 4) ** 2
cases = [(patch, 1), (patch, -2)]

# %% wrong
# source.clamp(0, patch.shape[1] - 1) => source % patch.shape[1]
#   What leaves one edge comes back at the other (as with torch.roll): the end of a note would sound before its
#   beginning.
# - frames => + frames
#   The patch moves to the left: frame t of the result is frame t − frames, not t + frames.
# return patch[:, source.clamp(0, patch.shape[1] - 1)] => return patch[(torch.arange(len(patch)) - frames).clamp(0, len(patch) - 1)]
#   The Mel bands are moved, not the frames: time is the last axis.
# return patch => inside = (source >= 0) & (source < patch.shape[1]); return inside * patch
#   The free edge is filled with zeros. In a normalised patch zero is the mean of the band, not silence; repeat
#   the frame at the edge.
# return patch[:, source.clamp(0, patch.shape[1] - 1)] => patch[:] = patch[:, source.clamp(0, patch.shape[1] - 1)]; return patch

# %% exercise: Sharpening
# An unsharp mask adds to a patch what its local mean leaves out, times an amount; an amount of 0 changes nothing. The
# mean over 3 x 3 neighbours is given.
#
# hint: First write down what the local mean leaves out: the detail.
def sharpen(patch: Tensor, local_mean: Tensor, amount: float) -> Tensor:
    """(F, T), (F, T) -> (F, T)."""
    ### BEGIN SOLUTION
    return patch + amount * (patch - local_mean)
    ### END SOLUTION

# %% cases
patch, local_mean = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
cases = [(patch, local_mean, 0.5), (patch, local_mean, 0.0)]

# %% wrong
# patch + amount => patch - amount
#   The detail is taken away instead of added: this blurs.
# return patch + amount => return amount
#   Only the detail is left: it is added to the patch.
# (patch - local_mean) => local_mean
#   The local mean is added, not the detail: what sharpens is the difference between the patch and its local mean.
