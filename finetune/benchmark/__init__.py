"""Training and comparing many models under one protocol, and the report of the results."""
