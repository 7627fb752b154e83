"""What outlives a process: the store of stages, its remote copy, checkpoints, and files written whole."""
