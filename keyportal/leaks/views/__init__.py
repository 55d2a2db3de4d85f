"""The public pages about leaks, and the team's banner."""
