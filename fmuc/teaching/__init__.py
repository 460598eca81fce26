"""What only the teaching notebooks use: players, pictures, replay, exercises."""
