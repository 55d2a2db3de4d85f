"""Rules that keys keep to: names, permissions, the team's policy."""
