"""Your own audio: import, check, predict."""
