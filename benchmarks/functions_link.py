"""What functions.py measures as one process of ours: link and apply from Python, OBJECT NAME TARGET."""

import sys

import a64patch

unit, name, path = sys.argv[1:]
with a64patch.open_target(path) as target:
    a64patch.apply(a64patch.link(unit, target, [name]).diff, target)
