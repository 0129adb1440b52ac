"""Run the doctor as one of two ranks for test_doctor_faults.py; environment variables set the faults of rank 1."""

import os
import sys
import time

from launch.cli import main

if __name__ == "__main__":
    if os.environ.get("RANK") == "1":
        sys.path.insert(0, os.environ["FAULT_PACKAGES"])
        os.chdir(os.environ["FAULT_FOLDER"])
        clock, ahead = time.time, float(os.environ["FAULT_SECONDS"])
        time.time = lambda: clock() + ahead
    sys.exit(main(["doctor", *sys.argv[1:]]))
