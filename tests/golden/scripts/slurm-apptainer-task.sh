#!/bin/bash
# One process of a run, started by srun: bash task.sh RUN
run=$1
# The process gets the signal as well, and saves; this shell only has to be there when it is done.
trap : INT TERM USR1
code=0
python3 -m finetune "$run"/launch/config.yaml || code=$?
# To srun any code but 0 is a failure for which it kills the others, who may still be saving; so 75 leaves a file.
if [ "$code" = 75 ]; then
    : > "$run"/launch/saved
    code=0
fi
exit "$code"
