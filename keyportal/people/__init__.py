"""The people of a team: their roles, who leaves it, and invitations to it."""
