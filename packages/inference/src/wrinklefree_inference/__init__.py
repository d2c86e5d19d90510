"""Engines, an OpenAI-compatible server and chats for 1.58-bit models.

The names below import nothing heavy; an engine's module is imported by `open_engine`.
"""

from wrinklefree_inference.engines import ENGINES, engine_for, open_engine
from wrinklefree_inference.engines.base import (
    Engine,
    Message,
    ModelFacts,
    Sampling,
    Scorer,
    TextStream,
    TokenScores,
    Usage,
)
from wrinklefree_inference.errors import EngineError

__all__ = [
    "ENGINES",
    "Engine",
    "EngineError",
    "Message",
    "ModelFacts",
    "Sampling",
    "Scorer",
    "TextStream",
    "TokenScores",
    "Usage",
    "engine_for",
    "open_engine",
]
