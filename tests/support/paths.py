"""Where things are in the repository."""

from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parent.parent
RECIPES = ROOT / "recipes"
