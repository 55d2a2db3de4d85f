"""The relay: a call to a model server and its answer back, with failover."""
