"""`python -m a64patch` is `a64patch`.

Read on: cli/main.py.
"""

import sys

from a64patch.cli.main import main

sys.exit(main())
