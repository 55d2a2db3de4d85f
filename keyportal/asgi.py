"""The way to serve: programs through one door, people through the other."""
