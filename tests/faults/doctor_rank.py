"""Run the doctor as one of two ranks for test_doctor_faults.py; environment variables set the faults of rank 1."""

import functools
import os
import sys
import time

from launch.cli import main
from launch.doctor import runner

if __name__ == "__main__":
    ahead = 0.0
    if os.environ.get("RANK") == "1":
        sys.path.insert(0, os.environ["FAULT_PACKAGES"])
        os.chdir(os.environ["FAULT_FOLDER"])
        ahead = float(os.environ["FAULT_SECONDS"])
    runner.run_doctor = functools.partial(runner.run_doctor, clock=lambda: time.time() + ahead)
    sys.exit(main(["doctor", *sys.argv[1:]]))
