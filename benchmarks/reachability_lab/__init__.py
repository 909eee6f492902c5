"""The parts of ``benchmarks/reachability.py``."""
