"""Users, teams and roles: sign-in, authorization, navigation."""
