"""The warden of a host: beats, gives back what the dead held, promotes, prunes. No user code."""
