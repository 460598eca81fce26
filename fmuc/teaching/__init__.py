"""What only the teaching notebooks use: players, replay, exercises."""
