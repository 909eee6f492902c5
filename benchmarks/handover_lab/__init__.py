"""The lab, the peers and the programs of ``benchmarks/handover.py``."""
