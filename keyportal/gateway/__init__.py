"""The gateway: `/v1/` and `/auth/verify`, for programs, plain ASGI."""
