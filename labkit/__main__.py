"""Run ``python -m labkit`` like the command ``labkit``."""

import sys

from labkit.cli import main

sys.exit(main())
