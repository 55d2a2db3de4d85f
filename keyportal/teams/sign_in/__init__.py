"""Sign-in: limits on wrong passwords, known browsers, passwords, and how long a session lasts."""
