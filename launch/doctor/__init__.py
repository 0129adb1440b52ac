"""Checks of the machines, before a job waits for them: `videomae doctor`."""
