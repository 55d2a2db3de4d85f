"""Django's PostgreSQL backend. It never lends a broken connection, and works behind a pooler."""
