"""`make faults`: what breaks in operation is broken on purpose, with real processes."""
