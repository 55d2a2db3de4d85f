"""How Keyportal is served: the gunicorn worker, HTTP/1.1 on one connection, logging, probes."""
