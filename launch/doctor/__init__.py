"""Whether these machines can run a job, before one waits for them: `python -m launch.doctor`."""
