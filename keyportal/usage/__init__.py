"""What was used: calls, sums, counters of limits, running calls."""
