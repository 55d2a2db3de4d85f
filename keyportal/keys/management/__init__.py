"""The `keys` command and what it shares with other commands."""
