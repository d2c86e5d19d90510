"""What the records of supervised data look like, by the name that `SourceConfig.format` gives.

A format is a file here and a line of `FORMATS`. Imports no PyTorch.
"""

from __future__ import annotations

from data_handler.formats.base import Message, RecordFormat, UnfitRecordError
from data_handler.formats.chat import Chat
from data_handler.formats.classification import MNLI, QNLI, SST2, Classification
from data_handler.formats.instruction import Instruction
from data_handler.formats.summary import Summary

__all__ = ["FORMATS", "TEXT", "Classification", "Message", "RecordFormat", "UnfitRecordError"]

TEXT = "text"
"""Plain documents, on all of whose tokens a model is trained."""
FORMATS: dict[str, RecordFormat] = {
    "chat": Chat(),
    "instruction": Instruction(),
    "mnli": MNLI,
    "qnli": QNLI,
    "sst2": SST2,
    "cnn_dailymail": Summary(),
}
