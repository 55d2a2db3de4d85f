"""The built-in demo model that answers without a model server."""
