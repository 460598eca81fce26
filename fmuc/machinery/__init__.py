"""What keeps runs, files and processes safe, and is not the paper: nothing of the method is in here."""
