"""Service accounts: owners of keys that no person is behind. Admins of a team make them."""
