"""Real fleets under a seeded plan of faults, and a judgement of what became of every job.

`python -m chaos` with `tests/` on the path; `make chaos` and `make soak` say it for you.
"""
