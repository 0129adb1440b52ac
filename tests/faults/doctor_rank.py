"""A program for test_doctor_faults.py: the doctor on two ranks, of which variables tell rank 1 what is wrong there."""

import os
import sys
import time

from launch.doctor.__main__ import main

if __name__ == "__main__":
    ahead = 0.0
    if os.environ.get("RANK") == "1":
        sys.path.insert(0, os.environ["FAULT_PACKAGES"])
        os.chdir(os.environ["FAULT_FOLDER"])
        ahead = float(os.environ["FAULT_SECONDS"])
    sys.exit(main(clock=lambda: time.time() + ahead))
