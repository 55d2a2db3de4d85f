"""Mail to people: the outbox, where it waits in the database until it is sent."""
