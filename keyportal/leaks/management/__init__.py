"""The command that reports a leaked key."""
