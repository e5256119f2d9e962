"""How figures grow with size: one curve a question."""
