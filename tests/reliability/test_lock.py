"""R13: two runs on one directory: the second refuses, and a killed run never leaves a stale lock."""

import json
import os
import subprocess
import sys
from pathlib import Path

TIMES = int(os.environ.get("FIRSTHAND_DEEP", "1"))  # make deep: ten times as many


def test_of_eight_racing_runs_one_wins_and_its_death_frees_the_lock(tmp_path):
    script = Path(__file__).with_name("lock_race.py")
    command = [sys.executable, str(script), str(tmp_path), "--races", str(50 * TIMES), "--seed", "13"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tally = json.loads(done.stdout)
    print(tally)
    assert tally["one_winner"] == tally["sound"] == tally["races"] == 50 * TIMES
    assert tally["longest_wait"] < 1.0
