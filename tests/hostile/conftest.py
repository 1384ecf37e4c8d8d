"""Makes the sample codec and the store in memory of the core's tests importable here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "nwc_core"))
