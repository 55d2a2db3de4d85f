"""Forward auth: verdicts for other proxies at `/auth/verify`."""
