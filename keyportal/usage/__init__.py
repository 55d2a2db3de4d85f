"""Calls, sums of usage, counters of limits, and running calls."""
