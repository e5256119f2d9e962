"""The main job, on real input: 336,776 flights through HTTP, batch handlers and SQLite."""

from bananas.demo.demo import main

__all__ = ["main"]
