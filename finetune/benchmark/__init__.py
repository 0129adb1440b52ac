"""Train and compare many models under one protocol, and report the results."""
