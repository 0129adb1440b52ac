#!/bin/bash
# Starts one process of a run. srun runs this: bash task.sh RUN
run=$1
# The process receives the signal as well, and saves; this shell must outlive it.
trap : INT TERM USR1
code=0
python3 -m finetune "$run"/launch/config.yaml || code=$?
# After any exit code but 0, srun kills the other processes, which may still be saving; so 75 becomes a file.
if [ "$code" = 75 ]; then
    : > "$run"/launch/saved
    code=0
fi
exit "$code"
