"""How long a person waits for `toolkit --help`: the median of five warm starts.

usage: python benchmarks/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [str(Path(sys.executable).with_name("toolkit")), "--help"]


def main() -> None:
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        subprocess.run(COMMAND, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"command": "toolkit --help", "median_seconds": round(statistics.median(seconds[1:]), 3)}))


if __name__ == "__main__":
    main()
