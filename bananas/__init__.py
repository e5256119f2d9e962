"""A distributed task queue on Redis, for very many jobs through few cores."""
