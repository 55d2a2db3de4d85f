"""Sign-in: passwords, second factors, limits on wrong ones, known browsers, sessions."""
