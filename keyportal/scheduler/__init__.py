"""Jobs that run by themselves, in one worker of all hosts at a time."""
