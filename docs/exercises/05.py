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

# %% wrong
# passes * unlabelled + => unlabelled +
# 3 * (labelled + unlabelled) => 3 * labelled
# passes * unlabelled => 3 * passes * unlabelled
# 3 * (labelled + unlabelled) => labelled + unlabelled
# passes * unlabelled => passes * (labelled + unlabelled)

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

# %% wrong
# net.eval() => net.train()
# module.train() => module.eval()
# net.modules() => net.children()
# isinstance(module, nn.Dropout) => isinstance(module, (nn.Dropout, nn.BatchNorm2d))
# net.eval() => pass

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

# %% wrong
# decay * average + (1 - decay) * weights => (1 - decay) * average + decay * weights
# (1 - decay) * weights => weights
# return decay * average => average.mul_(decay); return average
# decay * average + (1 - decay) * weights => (average + weights) / 2
