"""`python -m kwaai.cli`, for where the console script is not installed."""

from __future__ import annotations

import sys

from kwaai.cli.main import main

sys.exit(main())
