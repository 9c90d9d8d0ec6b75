"""What live.py measures of ours: `python -m benchmarks.live_patch STUB LIST OLD NEW`, a whole process.

Read on: live.py; peers/ for what it is compared with.
"""

from __future__ import annotations

import sys
from pathlib import Path

from a64patch import open_target, patch_text_sync


def main() -> None:
    """Change all words in one stop, and say how long it took."""
    stub, places, old, new = sys.argv[1:]
    addresses = [int(line, 16) for line in Path(places).read_text().split()]
    with open_target(f"gdb+unix:{stub}") as target:
        result = patch_text_sync(
            target, addresses, [int(new, 16)] * len(addresses), expected=[int(old, 16)] * len(addresses)
        )
    assert result.stop_window_ns is not None
    print("window", result.stop_window_ns / 1e9)


if __name__ == "__main__":
    main()
