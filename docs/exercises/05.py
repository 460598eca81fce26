# %% setup
from torch import Tensor, nn

from fmuc.teaching.exercises import check

# %% exercise: What a step costs
# Count in units: one patch once through the network without gradient is 1, forward and backward together are 3. A step
# sends the weak views of the unlabelled patches N times through it without gradient, then trains on the labelled and
# the strong views.
#
# hint: Two sums: passes without gradient, and patches that are trained on.
def units_of_step(labelled: int, unlabelled: int, passes: int) -> int:
    """Units of a step of FMUC (N = ``passes``) or FixMatch (N = 1)."""
    ### BEGIN SOLUTION
    return passes * unlabelled + 3 * (labelled + unlabelled)
    ### END SOLUTION

# %% cases
cases = [(32, 224, 5), (32, 224, 1), (16, 112, 10)]

# %% wrong
# passes * unlabelled + => unlabelled +
#   The weak views go through the network N times, not once.
# 3 * (labelled + unlabelled) => 3 * labelled
#   The strong views are trained on, too: their forward and backward passes are missing.
# passes * unlabelled => 3 * passes * unlabelled
#   The weak views have no backward pass: they count once for each dropout pass, not three times.
# 3 * (labelled + unlabelled) => labelled + unlabelled
#   What is trained on counts three times: forward and backward.
# passes * unlabelled => passes * (labelled + unlabelled)
#   Labelled patches need no pseudo-label: only the unlabelled ones take the dropout passes.

# %% exercise: Ready for MC-Dropout
# For the dropout passes the network is in evaluation mode, and only its dropout layers are not.
#
# hint: `net.modules()` gives all layers at whatever depth.
# hint: BatchNorm in training mode would use the batch's statistics and update the running ones in every pass.
def mc_ready(net: nn.Module) -> nn.Module:
    """The same network, in evaluation mode but for dropout."""
    ### BEGIN SOLUTION
    net.eval()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    return net
    ### END SOLUTION

# %% cases
def read(net):  # what is compared of an answer
    return [module.training for module in net.modules()] if isinstance(net, nn.Module) else net

net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.1), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.1)))
cases = [(net,), (nn.Sequential(nn.Dropout(0.1), nn.BatchNorm2d(2)).eval(),)]

# %% wrong
# net.eval() => net.train()
#   All layers are in training mode. BatchNorm then takes the statistics of the batch and updates the running ones
#   in each of the N passes: FMUC would differ from FixMatch in more than its selection.
# module.train() => module.eval()
#   Dropout is off: all passes are the same, and their standard deviation is 0.
# net.modules() => net.children()
#   Dropout layers inside of blocks stay off: `children` sees the outermost layers only, `modules` all.
# isinstance(module, nn.Dropout) => isinstance(module, (nn.Dropout, nn.BatchNorm2d))
#   BatchNorm is in training mode, too: its running statistics would be updated in every pass.
# net.eval() => pass
#   What was in training mode stays in it: call eval() first.

# %% exercise: An average of weights
# Mean Teacher [6] and many variants of FixMatch predict with an exponential moving average of the weights: of the old
# average the share `decay`, of the new weights the rest. (The paper mentions none, and neither do we use one.) Return a
# new tensor.
#
# hint: With a decay of 0.999 the average must hardly move in a step.
def moving_average(average: Tensor, weights: Tensor, decay: float) -> Tensor:
    """The average after one more step, in the shape of the weights."""
    ### BEGIN SOLUTION
    return decay * average + (1 - decay) * weights
    ### END SOLUTION

# %% cases
import torch

average, weights = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
cases = [(average, weights, 0.9), (average, weights, 0.999)]

# %% wrong
# decay * average + (1 - decay) * weights => (1 - decay) * average + decay * weights
#   The shares are exchanged: with a decay of 0.999 the average would be little else than the newest weights.
# (1 - decay) * weights => weights
#   The shares add up to more than 1: the average would grow to many times the weights.
# return decay * average => average.mul_(decay); return average
# decay * average + (1 - decay) * weights => (average + weights) / 2
#   The decay has no effect: old and new count by halves.
