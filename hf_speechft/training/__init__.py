"""Step 6: arguments, optimiser, trainer and the run that puts the other steps together."""
