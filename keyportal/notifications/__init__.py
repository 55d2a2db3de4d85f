"""Mail: the outbox in the database, from which mail is sent, and reminders of expiry."""
