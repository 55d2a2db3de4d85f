"""Django's PostgreSQL backend, with a pool that never lends a broken connection."""
