"""What a worker counts for Prometheus, and how it passes that to the process that is asked."""
