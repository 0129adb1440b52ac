"""What a run needs, before any GPU hour is spent: `python -m launch.plan CONFIG`."""
