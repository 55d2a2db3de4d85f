"""A team's own settings: its name, what it is called elsewhere, and its end."""
