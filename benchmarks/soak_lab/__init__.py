"""The parts of the soak: servers of a process each, moves, traffic, and what is watched."""
