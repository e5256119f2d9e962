"""Where the time of a job goes, step by step, beside what the commands cost bare."""
