"""The forms of the pages about keys."""
