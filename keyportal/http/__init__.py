"""ASGI types, request helpers and middleware that know no app."""
