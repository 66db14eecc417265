"""The shipped primer: finished shots that show an untuned model what to write."""

import json
from importlib.resources import files
from typing import Any

PRIMER: list[dict[str, Any]] = json.loads((files("ipt_datasets.synthesis") / "primer.json").read_text("utf-8"))
"""Shots, each {"text": ..., "pairs": [...]}; what `recipe.read_primer` reads."""
