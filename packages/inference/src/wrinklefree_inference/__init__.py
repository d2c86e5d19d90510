"""Engines, an OpenAI-compatible server and chats for 1.58-bit models.

The names below import nothing heavy; an engine's module is imported by `open_engine`.
"""

from wrinklefree_inference.engines import ENGINES, engine_for, open_engine
from wrinklefree_inference.engines.base import (
    AnswerStream,
    Engine,
    Message,
    ModelFacts,
    Sampling,
    Scorer,
    TokenScores,
    Usage,
)
from wrinklefree_inference.errors import EngineError

__all__ = [
    "ENGINES",
    "AnswerStream",
    "Engine",
    "EngineError",
    "Message",
    "ModelFacts",
    "Sampling",
    "Scorer",
    "TokenScores",
    "Usage",
    "engine_for",
    "open_engine",
]
