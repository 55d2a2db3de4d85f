"""A small HTTP/1.1 client for model servers. It knows nothing of the gateway."""
