"""Tar shards: write, index, verify, and read samples by id."""
