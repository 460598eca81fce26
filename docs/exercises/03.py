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

# %% wrong
# torch.softmax(logits, dim=1).max(dim=1) => torch.softmax(logits, dim=0).max(dim=1)
# torch.softmax(logits, dim=1).max(dim=1) => torch.softmax(logits, dim=1).max(dim=0)
# torch.softmax(logits, dim=1).max(dim=1) => logits.max(dim=1)
# confidence >= threshold => confidence < threshold

# %% exercise: The loss of the unlabelled part
# Cross-entropy of the strong views against the pseudo-labels, summed over those that are kept, and divided by the
# number of *all* unlabelled examples of the batch, as in FixMatch (deviation D4 in the README).
#
# hint: `functional.cross_entropy` takes logits; with `reduction="none"` it gives one loss for each example.
# hint: What is the loss of a batch of which nothing is kept?
def unlabelled_loss(strong_logits: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """(B, C) logits, (B,) classes, (B,) boolean -> the loss, a scalar."""
    ### BEGIN SOLUTION
    losses = functional.cross_entropy(strong_logits, labels, reduction="none")
    return (losses * kept).mean()
    ### END SOLUTION

# %% wrong
# (losses * kept).mean() => losses[kept].mean()
# (losses * kept).mean() => losses.mean()
# (losses * kept).mean() => (losses * kept).sum()
# functional.cross_entropy(strong_logits, labels => functional.cross_entropy(strong_logits.softmax(dim=1), labels

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

# %% wrong
# source.clamp(0, patch.shape[1] - 1) => source % patch.shape[1]
# - frames => + frames
# return patch[:, source.clamp(0, patch.shape[1] - 1)] => return patch[(torch.arange(len(patch)) - frames).clamp(0, len(patch) - 1)]
# return patch => inside = (source >= 0) & (source < patch.shape[1]); return inside * patch
# return patch => patch[:] = patch[:, source.clamp(0, patch.shape[1] - 1)]; return patch; patch

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

# %% wrong
# patch + amount => patch - amount
# return patch + amount => return amount
# (patch - local_mean) => local_mean
