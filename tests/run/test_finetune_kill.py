"""Runs of every task that were killed at random instants end with the bits of those that were never stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_tuning.py")


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_runs_of_every_task_end_with_the_same_bits_and_the_same_report(tmp_path, seed):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--kills", "5", "--seed", str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, (done.stdout[-1000:], done.stderr[-1000:])
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert len(told) == 8
    assert all(one["different"] == [] for one in told.values()), told
    assert sum(one["kills"] for one in told.values()) >= 24, told
