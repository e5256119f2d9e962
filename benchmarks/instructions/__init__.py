"""Instructions a job, counted: a figure that a busy machine does not move.

Time on shared cores moves by a factor of two within minutes; the instructions that a fixed
piece of work takes do not. So these are the one kind of figure that CI compares with a bound.
"""
