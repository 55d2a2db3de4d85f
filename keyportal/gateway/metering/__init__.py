"""Metering: what calls used, written in the background, and what looks anomalous in it."""
