"""How Keyportal is served: the worker that gunicorn starts, and HTTP/1.1 on one connection."""
