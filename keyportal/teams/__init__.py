"""People, teams and roles: sign-in, who may see what, navigation."""
