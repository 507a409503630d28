"""The stand-ins for the outside world live in `standins`; their fixtures are for every test."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ("standins.files", "standins.hub")
