"""The connections to the database, and its clock. Knows no app."""
