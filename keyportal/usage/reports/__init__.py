"""Usage over a period: totals, charts, CSV."""
