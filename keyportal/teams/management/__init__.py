"""Commands for people and teams, and what all operators' commands share."""
