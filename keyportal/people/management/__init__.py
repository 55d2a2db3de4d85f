"""The command that invites somebody to a team."""
