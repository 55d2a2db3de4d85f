"""The command that sends reminders of expiry."""
