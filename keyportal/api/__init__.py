"""The management API at `/api/v1/`, its management keys and their pages."""
