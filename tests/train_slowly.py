"""A run in a process of its own, for tests that kill it or start two of it. Usage: train_slowly.py OUT [quick]"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from test_train import TINY, source

from unsmear.train.loop import train

CONFIG = replace(TINY, steps=12, save_every=0.0)

if __name__ == "__main__":
    pause = 0.0 if "quick" in sys.argv else 0.2
    rows = []

    def log(row):
        rows.append(row)
        time.sleep(pause)

    train(CONFIG, source(), Path(sys.argv[1]), log=log)
    sys.stdout.write(f"{len(rows)}\n")  # in one piece: two processes may share the output, unbuffered
