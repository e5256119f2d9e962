"""What one process runs, and which processes a command means."""
