"""Load on the four servers: what benchmarks/servers.py is made of."""
