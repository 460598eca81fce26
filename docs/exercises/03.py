# %% setup
import numpy as np

from fmuc.teaching.exercises import check

# %% exercise: How many frames?
# The spectrogram is *centred*: half a window of zeros is put before and behind the sound, so that a frame lies around
# sample 0, hop, 2 · hop and so on. How many frames does a sound have?
#
# hint: Where are the centres of the frames, and which is the last one that still lies in the padded sound?
# hint: Half a window on both sides is one window more: count without centring, then put it in.
def frame_count(samples: int, window: int, hop: int) -> int:
    """Frames of a centred STFT; ``window`` is even."""
    ### BEGIN SOLUTION
    return 1 + samples // hop
    ### END SOLUTION

# %% cases
cases = [(64_000, 1024, 512), (220_500, 1024, 342), (1500, 1024, 512)]

# %% wrong
# 1 + samples // hop => 1 + (samples - window) // hop
#   These are the frames that lie wholly within the sound. Centred, the sound is longer by half a window at both
#   ends.
# 1 + samples // hop => samples // hop
#   The frame around sample 0 is missing: the first centre is 0, not hop.
# 1 + samples // hop => -(-samples // hop)
#   Rounded up: this is one too few where the length is a multiple of the hop, since sample 0 has a frame, too.
# 1 + samples // hop => samples / hop
#   A number of frames is whole: use // and count the frame around sample 0.

# %% exercise: A scale for loudness
# Magnitudes reach from 0 over several powers of ten. Bring them to the scale log(1 + x), on which silence stays 0.
#
# hint: There is a function for it that is exact for small x, too.
def compress(magnitudes: np.ndarray) -> np.ndarray:
    """(F, L) Mel magnitudes -> natural log(1 + x), the same shape."""
    ### BEGIN SOLUTION
    return np.log1p(magnitudes)
    ### END SOLUTION

# %% cases
cases = [(np.array([[0.0, 0.5, 1.0], [10.0, 100.0, 1e-4]]),)]

# %% wrong
# np.log1p(magnitudes) => np.log(magnitudes)
#   log(0) is minus infinity: one silent bin would spoil mean and variance of its band.
# np.log1p(magnitudes) => np.log10(1 + magnitudes)
#   This is the logarithm to base 10; asked for is the natural one. (After the normalisation it would not matter.
#   Why?)
# np.log1p(magnitudes) => np.log1p(magnitudes**2)
#   The magnitudes are squared first: that is a power spectrogram.

# %% exercise: From spectrogram to patches
# Cut a spectrogram into consecutive patches of equally many frames. A tail shorter than a patch is dropped.
#
# hint: `reshape` reads and writes row by row: which axis can it split in two?
# hint: Split the axis of the frames, then put the axes into their order.
def cut(spectrogram: np.ndarray, frames: int) -> np.ndarray:
    """(F, L) -> (P, F, ``frames``)."""
    ### BEGIN SOLUTION
    bands, length = spectrogram.shape
    count = length // frames
    whole = spectrogram[:, : count * frames].reshape(bands, count, frames)
    return whole.transpose(1, 0, 2)
    ### END SOLUTION

# %% cases
spectrogram = np.arange(22.0).reshape(2, 11)
cases = [(spectrogram, 3), (spectrogram, 2)]

# %% wrong
# whole.transpose(1, 0, 2) => whole.transpose(1, 0, 2)[:1]
#   Only the first patch is left. This is the mistake of footnote 1: most of each recording is lost.
# whole.transpose(1, 0, 2) => whole.reshape(count, bands, frames)
#   The shape is right, the content is not: reshape alone reads row by row, so that a patch gets frames of one
#   band as if they were bands. Split the axis of the frames, then transpose.
# return whole.transpose(1, 0, 2) => return whole
#   The axes are (F, P, frames): put the patches first.
# count = length // frames => count = -(-length // frames); spectrogram = np.pad(spectrogram, ((0, 0), (0, frames)))
#   The tail is filled up with zeros to one more patch; it should be dropped.

# %% exercise: Normalise each Mel band
# Each band gets zero mean and unit variance (§III). Mean and standard deviation are those of the training patches: of a
# band over all its patches and frames.
#
# hint: Axes of an array of patches: 0 patches, 1 Mel bands, 2 frames. Which ones disappear?
# hint: With `keepdims=True` the result still fits the patches.
def normalise(patches: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(P, F, T) patches and the training patches (Q, F, T) -> normalised patches (P, F, T)."""
    ### BEGIN SOLUTION
    axes = (0, 2)
    mean, std = train.mean(axis=axes, keepdims=True), train.std(axis=axes, keepdims=True)
    return (patches - mean) / std
    ### END SOLUTION

# %% cases
rng, loudness = np.random.default_rng(0), np.array([1.0, 3.0, 0.5])[:, None]  # of each band
new, train = (loudness * rng.normal(2, 1, (count, 3, 4)) for count in (2, 6))
cases = [(new, train), (train[:1], train)]

# %% wrong
# axes = (0, 2) => axes = (0, 1)
#   Mean and deviation are those of each frame (axes 0 and 1 were averaged). The bands stay as different as they
#   were.
# axes = (0, 2) => axes = (0, 1, 2)
#   One mean for everything: low bands stay louder than high ones. Each Mel band has its own.
# axes = (0, 2) => axes, train = (0, 2), patches
#   The statistics are those of the patches themselves. Test patches must be normalised as the training patches
#   were, else the test set takes part in its own preparation.
# axes = (0, 2) => axes, train = (1, 2), patches
#   Each patch is normalised by itself: loud and soft patches become the same.
# (patches - mean) / std => (patches - mean) / std**2
#   Divided by the variance; unit variance needs the standard deviation.
# (patches - mean) / std => patches - mean
#   The variance of the bands is not yet one: divide by the standard deviation.
