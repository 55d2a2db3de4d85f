"""What operators see of requests: metrics for Prometheus, and the access log."""
