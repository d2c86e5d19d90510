"""What the task files of supervised records ask, in the words that training on them uses."""

from __future__ import annotations

from typing import Any

from data_handler.formats.classification import MNLI, QNLI, SST2
from data_handler.formats.summary import Summary

mnli_question, mnli_label = MNLI.question, MNLI.label
qnli_question, qnli_label = QNLI.question, QNLI.label
sst2_question, sst2_label = SST2.question, SST2.label
summary_question = Summary().question


def mnli_words(record: dict[str, Any]) -> list[str]:
    """The answers of which the likeliest is taken; of qnli and sst2 likewise."""
    return list(MNLI.words)


def qnli_words(record: dict[str, Any]) -> list[str]:
    return list(QNLI.words)


def sst2_words(record: dict[str, Any]) -> list[str]:
    return list(SST2.words)


def rouge(record: dict[str, Any], results: list[str]) -> dict[str, float]:
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum (Lin 2004), with Porter's stems.

    By Google's `rouge-score`, whose figures papers report. ROUGE-Lsum wants sentences apart: lines.
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    names = ["rouge1", "rouge2", "rougeLsum"]
    scores = RougeScorer(names, use_stemmer=True).score(record["highlights"], results[0])
    return {name: scores[name].fmeasure for name in names}
