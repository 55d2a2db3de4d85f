"""Leaked keys: reports by anyone, by GitHub and by operators; scanner rules; the banner."""
