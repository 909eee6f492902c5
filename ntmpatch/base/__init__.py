"""What every room may use: errors, named drops, addresses, timers, back-off, configuration."""
