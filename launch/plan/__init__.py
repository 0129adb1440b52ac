"""What a run will need and take, before any GPU hour is spent: `python -m launch.plan CONFIG`."""
