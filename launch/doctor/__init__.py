"""Checks of the machines, before a job waits for them: `python -m launch.doctor`."""
