"""The training loop and what surrounds it: optimisers, schedule, checkpoints, run folders."""
