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

# %% wrong
# 1 + samples // hop => 1 + (samples - window) // hop
# 1 + samples // hop => samples // hop
# 1 + samples // hop => -(-samples // hop)
# 1 + samples // hop => samples / hop

# %% exercise: A scale for loudness
# Magnitudes reach from 0 over several powers of ten. Bring them to the scale log(1 + x), on which silence stays 0.
#
# hint: There is a function for it that is exact for small x, too.
def compress(magnitudes: np.ndarray) -> np.ndarray:
    """(F, L) Mel magnitudes -> natural log(1 + x), the same shape."""
    ### BEGIN SOLUTION
    return np.log1p(magnitudes)
    ### END SOLUTION

# %% wrong
# np.log1p(magnitudes) => np.log(magnitudes)
# np.log1p(magnitudes) => np.log10(1 + magnitudes)
# np.log1p(magnitudes) => np.log1p(magnitudes**2)

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

# %% wrong
# whole.transpose(1, 0, 2) => whole.transpose(1, 0, 2)[:1]
# whole.transpose(1, 0, 2) => whole.reshape(count, bands, frames)
# return whole.transpose(1, 0, 2) => return whole
# count = length // frames => count = -(-length // frames); spectrogram = np.pad(spectrogram, ((0, 0), (0, frames)))

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

# %% wrong
# axes = (0, 2) => axes = (0, 1)
# axes = (0, 2) => axes = (0, 1, 2)
# axes = (0, 2) => axes, train = (0, 2), patches
# axes = (0, 2) => axes, train = (1, 2), patches
# (patches - mean) / std => (patches - mean) / std**2
# (patches - mean) / std => patches - mean
