"""R13: eight processes race for one run; exactly one may have it, and a killed one leaves nothing behind.

python tests/reliability/lock_race.py FOLDER --races 50 --seed 0      prints one line of JSON
"""

import argparse
import json
import os
import random
import signal
import time
from pathlib import Path

from firsthand import files
from firsthand.errors import CheckpointError

RACERS = 8


def racer(run: Path, start: float, report: int) -> None:
    """Try to take the lock at an agreed instant; hold it until killed."""
    time.sleep(max(0.0, start - time.monotonic()))
    try:
        with files.RunLock(run):
            os.write(report, b"won\n")
            time.sleep(60)
    except CheckpointError as error:
        refused = error.code == 24 and f"{run} is being written by" in str(error)
        os.write(report, b"refused\n" if refused else f"odd: {error}\n".encode())
    os._exit(0)


def race(run: Path, chance: random.Random) -> dict:
    """One race: what each racer said, and how long the lock took to come free after its holder was killed."""
    ear, mouth = os.pipe()
    start = time.monotonic() + 0.03
    pids = []
    for _ in range(RACERS):
        child = os.fork()
        if child == 0:
            racer(run, start + chance.choice((0.0, 0.0, 0.002)), mouth)
        pids.append(child)
    said = b""
    while said.count(b"\n") < RACERS:
        said += os.read(ear, 1000)
    holder = json.loads((run / ".lock").read_text())["pid"]
    known = holder in pids
    stopped = chance.random() < 0.3
    if stopped:
        os.kill(holder, signal.SIGSTOP)  # asleep is not dead
    held = refuses(run)
    readable = files.newest(run)[0] is not None  # reading needs no lock
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    began = time.monotonic()
    with files.RunLock(run):
        waited = time.monotonic() - began
    for pid in set(pids) - {holder}:
        os.waitpid(pid, 0)
    os.close(ear)
    os.close(mouth)
    words = said.decode().split("\n")[:-1]
    return {"won": words.count("won"), "refused": words.count("refused"), "waited": waited} | {
        "sound": known and held and readable
    }


def refuses(run: Path) -> bool:
    try:
        with files.RunLock(run):
            return False
    except CheckpointError as error:
        return error.code == 24


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--races", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chance, run = random.Random(chosen.seed), chosen.folder / "run"
    files.publish(run / "step-000001", {"a": b"1"})
    results = [race(run, chance) for _ in range(chosen.races)]
    tally = {
        "races": len(results),
        "one_winner": sum(result["won"] == 1 and result["refused"] == RACERS - 1 for result in results),
        "sound": sum(result["sound"] for result in results),
        "longest_wait": max(result["waited"] for result in results),
        "seed": chosen.seed,
    }
    print(json.dumps(tally))
