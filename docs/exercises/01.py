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

# %% wrong
# note.split("-")[0] => note
# note.split("-")[0] => note.split("_")[0]
# note.split("-")[0] => note.rsplit("-", 1)[0]
# known & unseen => known | unseen

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

# %% wrong
# max(1, round(share * len(members))) => round(share * len(members))
# share * len(members) => share * len(labels)
# np.sort(chosen) => np.arange(round(share * len(labels)))
# np.sort(chosen) => labels[np.sort(chosen)]

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

# %% wrong
# 1 - (1 - share) ** files => share * files
# 1 - (1 - share) ** files => (1 - share) ** files
# 1 - (1 - share) ** files => 1 - share**files
# 1 - (1 - share) ** files => share**files

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

# %% wrong
# np.flatnonzero(np.isin(clip_of_patch, clips)) => np.searchsorted(clip_of_patch, clips)
# np.flatnonzero(np.isin(clip_of_patch, clips)) => clips
# np.isin(clip_of_patch, clips) => ~np.isin(clip_of_patch, clips)
# np.flatnonzero(np.isin(clip_of_patch, clips)) => clip_of_patch[np.isin(clip_of_patch, clips)]
