# %% setup
import numpy as np

from fmuc.teaching.exercises import check

# %% exercise: Instruments on both sides
# NSynth names a note `<instrument>-<pitch>-<velocity>`, such as `bass_synthetic_033-022-050`. Which instruments occur
# among the training *and* the test notes? In NSynth it must be none (§III).
#
# hint: The name of an instrument holds underscores, but no hyphen.
# hint: Sets know `&`.
def shared_instruments(train: list[str], test: list[str]) -> set[str]:
    """Names of the instruments that have notes in both lists."""
    ### BEGIN SOLUTION
    known, unseen = ({note.split("-")[0] for note in notes} for notes in (train, test))
    return known & unseen
    ### END SOLUTION

# %% cases
train = ["bass_synthetic_033-022-050", "bass_synthetic_033-023-075", "guitar_acoustic_010-060-100"]
test = ["bass_synthetic_033-030-100", "guitar_acoustic_011-060-100", "vocal_synthetic_001-060-025"]
cases = [(train, test), (["organ_electronic_104-060-050"], ["organ_electronic_104-060-127"])]

# %% wrong
# note.split("-")[0] => note
#   Whole notes are compared. No note is in both lists, and yet its instrument may be: this is the leak that the
#   split by instruments avoids.
# note.split("-")[0] => note.split("_")[0]
#   Families are compared (up to the first underscore). They should occur on both sides; instruments should not.
# note.split("-")[0] => note.rsplit("-", 1)[0]
#   The pitch is still in the name: the same instrument at another pitch goes unnoticed.
# known & unseen => known | unseen
#   This is every instrument of either list; asked for are those of both: & instead of |.

# %% exercise: A stratified draw
# Of each class the first files, in their order, are labelled: the share of the class's files, rounded, and one at
# least. (A real draw shuffles first; without it your answer can be compared.)
#
# hint: `np.flatnonzero(labels == label)` gives the places of a class.
# hint: What does rounding make of a class with one file?
def draw_labelled(labels: np.ndarray, share: float) -> np.ndarray:
    """Classes (n,) -> places of the labelled files, ascending."""
    ### BEGIN SOLUTION
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.extend(members[: max(1, round(share * len(members)))])
    return np.sort(chosen)
    ### END SOLUTION

# %% cases
labels = np.array([0] * 10 + [1] * 6 + [2] + [0, 1] * 2)
cases = [(labels, 0.3), (labels, 0.05)]

# %% wrong
# max(1, round(share * len(members))) => round(share * len(members))
#   A small class gets no labelled file, so the network can never learn it: one at least of each class.
# share * len(members) => share * len(labels)
#   Each class gets the share of *all* files: too many, and as many of a small class as of a large one.
# np.sort(chosen) => np.arange(round(share * len(labels)))
#   The first files of the whole list are taken, whatever their classes: the draw is not stratified.
# np.sort(chosen) => labels[np.sort(chosen)]
#   These are classes; asked for are the places of the files in the list.

# %% exercise: A label for every group?
# A share s of all files is labelled, each file independently. With what chance does an instrument or a recording of k
# files have a labelled file?
#
# hint: Start with the chance that none of its files is labelled.
def chance_of_a_label(files: int, share: float) -> float:
    """The chance that at least one of ``files`` files is labelled."""
    ### BEGIN SOLUTION
    return 1 - (1 - share) ** files
    ### END SOLUTION

# %% cases
cases = [(4, 0.25), (13, 0.05), (300, 0.01)]

# %% wrong
# 1 - (1 - share) ** files => share * files
#   k · s is the expected number of labelled files, not a chance: of 300 files at 1 % it would be 3.
# 1 - (1 - share) ** files => (1 - share) ** files
#   This is the chance that none of them is labelled; asked for is the opposite.
# 1 - (1 - share) ** files => 1 - share**files
#   This is the chance that not all files are labelled.
# 1 - (1 - share) ** files => share**files
#   This is the chance that all files are labelled; one is enough.

# %% exercise: Every patch of every recording
# The pool of unlabelled patches holds all patches of all unlabelled clips: footnote 1 of the paper tells what it cost to
# forget most of them. Patch p belongs to clip `clip_of_patch[p]`.
#
# hint: `np.isin` asks of each patch whether its clip is in a list.
def pool_of(clip_of_patch: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """(P,), numbers of the unlabelled clips -> numbers of their patches, ascending."""
    ### BEGIN SOLUTION
    return np.flatnonzero(np.isin(clip_of_patch, clips))
    ### END SOLUTION

# %% cases
clip_of_patch = np.repeat(np.arange(5), (4, 4, 2, 4, 1))
cases = [(clip_of_patch, np.array([1, 2, 4])), (clip_of_patch, np.array([0]))]

# %% wrong
# np.flatnonzero(np.isin(clip_of_patch, clips)) => np.searchsorted(clip_of_patch, clips)
#   Only the first patch of each clip is in the pool. This is the mistake of footnote 1: most of the unlabelled
#   data are lost.
# np.flatnonzero(np.isin(clip_of_patch, clips)) => clips
#   Numbers of clips are used as numbers of patches: clip 1 is not patch 1 where clips have several patches.
# np.isin(clip_of_patch, clips) => ~np.isin(clip_of_patch, clips)
#   These are the patches of all other clips.
# np.flatnonzero(np.isin(clip_of_patch, clips)) => clip_of_patch[np.isin(clip_of_patch, clips)]
#   These are the clips of the patches; asked for are the numbers of the patches.
