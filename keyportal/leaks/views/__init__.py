"""Public pages about leaks, and the team's page of leaked keys."""
