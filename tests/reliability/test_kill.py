"""R1 and R2: nothing is lost when a run is killed, and it ends with the bits of one that was never stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = int(os.environ.get("FIRSTHAND_DEEP", "1"))  # make deep: ten times as many
NEVER = ("lost", "corrupt", "backwards", "different", "litter")
SCRIPT = Path(__file__).with_name("kill_loop.py")


@pytest.mark.timeout(300 * max(1, TIMES))
def test_two_hundred_kills_lose_nothing_and_change_no_bit(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--kills", str(200 * TIMES), "--seed", "20"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tally = json.loads(done.stdout)
    print(tally)
    assert tally["failed"] == [], done.stderr[-2000:]
    assert tally["kills"] == 200 * TIMES
    assert {name: tally[name] for name in NEVER} == dict.fromkeys(NEVER, 0), tally
    assert tally["inside_a_save"] >= 0.4 * tally["kills"], tally
    assert tally["finished"] >= 0.03 * tally["kills"], tally
