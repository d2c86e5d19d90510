"""The ternary weight schemes by name, as wrinklefree.json, config.json and configurations spell them."""

from __future__ import annotations

GROUP_SIZES: dict[str, int | None] = {"tensor": None, "group64": 64, "group128": 128}
"""Scheme -> inputs of a row that share a scale; None: the whole matrix shares one."""
