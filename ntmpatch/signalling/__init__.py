"""The signalling protocol engine: transactions over any lossy channel, and processes of steps."""
