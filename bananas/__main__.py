"""`python -m bananas`, the same as `bananas`."""

from __future__ import annotations

from bananas.cli import main

if __name__ == "__main__":
    main()
