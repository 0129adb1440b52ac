"""Tar shards: built once, indexed, verified, and read in an order that no rank or worker count changes."""
