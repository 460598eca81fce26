"""The simulated data sets: nsynth-gm and scenes-sim."""
