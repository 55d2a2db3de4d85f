"""How fast the gateway is, as ratios taken in one run. See README.md beside this."""
