"""The connections to the database: a checked pool, silent sessions, outages. Knows no app."""
