"""Commands for users and teams, and the base class of all operator commands."""
