"""Reported keys: reports by anyone, GitHub and operators, scanner rules, the banner."""
