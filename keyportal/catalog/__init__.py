"""Model servers, the models that they serve, routes between them, and the circuit breaker."""
