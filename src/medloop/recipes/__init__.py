"""One published system a file, each the same loop with other parts put in."""
