"""Side by side with other task queues: the same work, on the same server, in turn.

Each peer lives in an environment of its own, at a stated version and with stated settings;
its program (`programs/with_*.py`) has the same handlers as all others and nothing else.
"""
