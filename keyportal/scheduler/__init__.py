"""Scheduled jobs, which run in one worker of all hosts at a time."""
