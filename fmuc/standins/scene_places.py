"""The 15 scenes of scenes-sim: which sources a place of each scene may have, and what a recording of it sounds like.

By construction, scenes that are close in meaning share sources in overlapping amounts: forest path and park; park,
residential area and city centre; train, tram, bus and car; café and grocery store; home, office and library; tram and
metro station.  So a classifier confuses these more than others: a property of the recipe, no finding about the world.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fmuc.standins.scene_sounds import in_room, through_microphone
from fmuc.standins.scene_sources import SOURCES


class Scene(NamedTuple):
    """``sources`` name -> (chance, lowest dB, highest dB); ``room``: ranges of reverberation time in s and of dB."""

    sources: dict[str, tuple[float, float, float]]
    room: tuple[float, float, float, float]


_OUTDOORS, _VEHICLE, _SMALL, _LARGE = (0.3, 0.9, -28, -14), (0.1, 0.3, -14, -4), (0.2, 0.7, -12, -2), (0.5, 1.3, -10, 0)

SCENES: dict[str, Scene] = {  # the first source is always there
    "beach": Scene({"surf": (1, -3, 3), "wind": (0.8, -12, -2), "gulls": (0.5, -4, 4), "children": (0.35, -4, 4),
                    "speech": (0.3, -18, -8), "birds": (0.2, -4, 4), "gravel": (0.3, -4, 4),
                    "leaves": (0.3, -14, -6)}, _OUTDOORS),
    "bus": Scene({"rolling": (1, -4, 0), "engine": (1, -2, 3), "fan": (0.5, -14, -7), "speech": (0.5, -14, -6),
                  "hiss": (0.5, 0, 8), "beeps": (0.35, -2, 4), "announcement": (0.3, -4, 4), "rattle": (0.7, 0, 8),
                  "squeal": (0.15, -6, 2), "joints": (0.2, -4, 2)}, _VEHICLE),
    "cafe/restaurant": Scene({"crowd": (1, -2, 3), "cutlery": (0.9, 2, 10), "music": (0.5, -6, 2),
                              "fan": (0.5, -12, -4), "cooling": (0.6, -9, -2), "chair": (0.5, 0, 8),
                              "machine": (0.4, -2, 6), "beeps": (0.35, -4, 4), "bags": (0.2, -2, 4),
                              "steps": (0.4, -2, 6)}, _LARGE),
    "car": Scene({"rolling": (1, 0, 3), "engine": (0.7, -14, -6), "fan": (0.4, -12, -6), "indicator": (0.45, 0, 6),
                  "music": (0.3, -8, 0), "speech": (0.25, -12, -4), "passby": (0.4, -8, 0), "rain": (0.2, -16, -8),
                  "wind": (0.5, -8, 0)}, _VEHICLE),
    "city_center": Scene({"traffic": (1, -3, 2), "passby": (0.8, -2, 4), "steps": (0.8, 0, 6), "crowd": (0.65, -14, -4),
                          "horn": (0.2, -4, 4), "squeal": (0.25, -6, 2), "bell": (0.15, -4, 4), "music": (0.1, -10, -2),
                          "birds": (0.2, -8, 0)}, _OUTDOORS),
    "forest_path": Scene({"leaves": (1, -9, -1), "birds": (0.85, 0, 8), "wind": (0.6, -10, -2), "gravel": (0.65, 0, 6),
                          "traffic": (0.45, -14, -6), "speech": (0.25, -18, -8)}, _OUTDOORS),
    "grocery_store": Scene({"cooling": (1, -2, 3), "hum": (0.6, -14, -6), "crowd": (0.85, -8, 0), "beeps": (0.75, 0, 6),
                            "cart": (0.6, 0, 6), "steps": (0.5, -2, 4), "music": (0.4, -8, 0), "bags": (0.5, 0, 6),
                            "announcement": (0.2, -4, 4), "cutlery": (0.4, -2, 6)}, _LARGE),
    "home": Scene({"hum": (1, -14, -8), "fan": (0.4, -16, -8), "cutlery": (0.6, 0, 6), "speech": (0.6, -6, 0),
                   "steps": (0.4, -2, 4), "door": (0.4, 0, 6), "music": (0.3, -8, 0), "clock": (0.35, -4, 2),
                   "chair": (0.3, -2, 4), "keyboard": (0.15, -4, 2), "traffic": (0.3, -16, -8)}, _SMALL),
    "library": Scene({"fan": (1, -10, -4), "pages": (0.75, -2, 5), "keyboard": (0.3, -8, 0), "steps": (0.6, -4, 4),
                      "chair": (0.4, -4, 4), "speech": (0.35, -20, -12), "door": (0.3, -2, 6),
                      "mouse": (0.2, -8, 0)}, _LARGE),
    "metro_station": Scene({"hall": (1, -2, 3), "steps": (0.8, 0, 6), "crowd": (0.7, -10, -3), "rail": (0.55, -8, 2),
                            "announcement": (0.5, 0, 6), "whine": (0.3, -16, -6), "squeal": (0.3, -4, 4),
                            "beeps": (0.25, -4, 4), "hiss": (0.3, -4, 4)}, (1.2, 2.8, -4, 3)),
    "office": Scene({"fan": (1, -4, 0), "keyboard": (0.85, 0, 6), "mouse": (0.6, -4, 2), "speech": (0.45, -16, -6),
                     "phone": (0.15, -4, 4), "chair": (0.4, -4, 4), "door": (0.3, -2, 6), "pages": (0.25, -6, 2),
                     "hum": (0.4, -18, -10)}, _SMALL),
    "park": Scene({"leaves": (1, -10, -3), "birds": (0.8, -1, 7), "traffic": (0.8, -11, -3), "wind": (0.5, -10, -2),
                   "gravel": (0.5, -2, 4), "children": (0.4, 0, 6), "dog": (0.2, -2, 6), "speech": (0.3, -16, -6)},
                  _OUTDOORS),
    "residential_area": Scene({"traffic": (1, -8, -3), "birds": (0.7, -3, 5), "passby": (0.55, -8, 0),
                               "steps": (0.4, -2, 4), "leaves": (0.3, -16, -8), "wind": (0.5, -10, -2),
                               "dog": (0.3, -2, 6), "children": (0.25, -4, 4), "door": (0.3, 0, 8)}, _OUTDOORS),
    "train": Scene({"rail": (1, 0, 3), "fan": (0.7, -12, -5), "joints": (0.8, 0, 6), "whine": (0.2, -20, -10),
                    "speech": (0.4, -14, -6), "announcement": (0.25, -4, 4), "door": (0.25, -2, 4),
                    "rolling": (0.6, -6, 1), "engine": (0.5, -6, 0), "rattle": (0.5, -2, 5),
                    "bags": (0.2, -4, 2)}, _VEHICLE),
    "tram": Scene({"rail": (1, -3, 1), "whine": (0.9, -10, -2), "joints": (0.4, -2, 4), "squeal": (0.5, -2, 4),
                   "bell": (0.4, 0, 6), "hiss": (0.25, -2, 4), "beeps": (0.25, -4, 2), "announcement": (0.3, -4, 4),
                   "speech": (0.45, -14, -6), "rattle": (0.4, -2, 4)}, _VEHICLE),
}


def record(scene: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` samples from one new place of ``scene``: float32 (2, n) with a drawn peak between -18 and -1 dBFS.

    The place is what the draws have in common for the whole recording: which of the scene's sources there are, how
    loud each is and how it sounds, the room and the microphone.
    """
    sources, (shortest, longest, driest, wettest) = SCENES[scene]
    heard = np.zeros((2, n), np.float32)
    for i, (name, (chance, lowest, highest)) in enumerate(sources.items()):
        if i == 0 or rng.random() < chance:
            heard += np.float32(10 ** (rng.uniform(lowest, highest) / 20)) * SOURCES[name](rng, n)
    heard = in_room(rng, heard, rng.uniform(shortest, longest), rng.uniform(driest, wettest))
    heard = through_microphone(rng, heard, db=1.5)
    return heard * np.float32(10 ** (rng.uniform(-18, -1) / 20) / np.abs(heard).max())
