"""Rules for keys: names, permissions, the team's policy."""
