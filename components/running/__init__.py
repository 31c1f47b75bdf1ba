"""How any stage is run: one writer, signals, exit codes, progress, costs, row accounting, training loop."""
