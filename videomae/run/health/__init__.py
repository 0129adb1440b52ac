"""What keeps a run alive and honest: stops, limits, hangs, slow ranks, and where the run stands.

attempt     one start of a run, round all of the below       stopping    signals and the STOP file, exit codes
guard       skip, go back, give up                           rollback    which checkpoint to go back to
watchdog    ends what hangs, with every rank's stacks        stragglers  names slow ranks by host
status      status.json                                      processes   whether the launchers are still alive

`status` needs no torch, so that a run's state shows at once.
"""
