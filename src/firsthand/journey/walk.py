"""Walk the stages in order; a stage whose inputs did not change is read back instead of done again.

The result of a stage is one JSON file under OUT/stages with the key it was made for: a hash of the stage's place, the
program's source, and the key of the stage before. So a second walk is instant, a change of the program repeats what
depends on it, and a walk that was killed goes on where it stopped (inside pretraining, at the newest checkpoint).
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import firsthand
from firsthand import files
from firsthand.journey.stages import STAGES, Trip
from firsthand.study import report

Tell = Callable[[str, dict[str, Any]], None]


def walk(out: Path, fresh: bool, tell: Tell) -> Path:
    """Do every stage, tell of each as it ends, and give the report's path."""
    if fresh and out.exists():
        out.rename(out.with_name(f"{out.name}.{time.strftime('%Y%m%d-%H%M%S')}"))
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    key = program()
    changed = False
    with files.RunLock(out):
        for number, stage in enumerate(STAGES, start=1):
            key = hashlib.sha256(f"{key} {stage.__name__}".encode()).hexdigest()
            path = out / "stages" / f"{number}-{stage.__name__}.json"
            result = _kept(path, key)
            if result is None:
                changed = True
                began = time.monotonic()
                result = stage(Trip(out, results))
                result["seconds"] = time.monotonic() - began
                path.parent.mkdir(exist_ok=True)
                if "left_out" not in result:  # what could not be done now is tried again the next time
                    files.write_file(path, json.dumps({"key": key, "result": result}, ensure_ascii=False))
                tell(stage.__name__, result)
            else:
                tell(stage.__name__, result | {"kept": True})
            results[stage.__name__] = result
        page = out / "report.html"
        if changed or not page.exists():
            report.journey_report(out, results)
    return page


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    """The result of an earlier walk, if it was made from the same things."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return saved["result"] if saved.get("key") == key else None


@cache
def program() -> str:
    """A hash of everything that computes: our source, and the versions under it."""
    from importlib.metadata import version

    digest = hashlib.sha256()
    source = Path(firsthand.__file__).parent
    for path in sorted((*source.rglob("*.py"), *source.rglob("*.css"))):
        digest.update(path.read_bytes())
    for part in (platform.python_version(), version("torch"), version("numpy")):
        digest.update(part.encode())
    return digest.hexdigest()
