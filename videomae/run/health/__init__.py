"""Health of a run: unhealthy optimization (guard), hangs (watchdog) and slow ranks (stragglers)."""
