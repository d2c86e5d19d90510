"""What `score` and `mix` measure by: a model, and a probe that shares no document with the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

import bitnet_arch
from data_handler.corpus.domains import Document, Domain, Reading, documents_of
from data_handler.errors import DataRequestError
from data_handler.held_out import text_hash
from wf_formats.diffusion import BlockDiffusion, check_autoregressive
from wf_formats.errors import RequestError
from wf_formats.packaged import ModelSource
from wrinklefree.data_choice.progress import reading_bar

PACKAGED = "packaged"
_SHOWN = 3


def open_model(name: str) -> bitnet_arch.DenseSource:
    """The packaged model, or that of a folder, ternary or dense; its configuration is read.

    Raises: RequestError for no folder; SourceError for what is no model, or one without a tokenizer.
    """
    hf_logging: Any = transformers.utils.logging
    hf_logging.disable_progress_bar()
    if name == PACKAGED:
        return bitnet_arch.open_dense(ModelSource.packaged)
    if not Path(name).is_dir():
        raise RequestError(f"--model {name}: there is no such folder; give one with a model, or {PACKAGED}")
    source = bitnet_arch.open_dense(ModelSource.path, name)
    check_autoregressive(BlockDiffusion.from_settings(source.settings), "wf data", where=f"--model {name}")
    if source.tokenizer is None:
        raise bitnet_arch.SourceError(f"{name} has no tokenizer: copy the model's tokenizer files into it")
    return source


def probe_hashes(probe: Domain, reading: Reading) -> dict[str, Document]:
    """The probe's documents by what makes two texts the same. Raises: DataError."""
    return {text_hash(document.text): document for document in documents_of(probe, reading)}


def refuse_probe_in(domains: Sequence[Domain], probe: Domain, reading: Reading) -> dict[str, int]:
    """Reads all files through.

    Returns: the characters of each domain.

    Raises: DataRequestError naming documents that are in a source and in the probe.
    """
    known = probe_hashes(probe, reading)
    characters = dict.fromkeys((domain.name for domain in domains), 0)
    both: list[str] = []
    with reading_bar("reading", domains) as advance:
        for domain in domains:
            for document in documents_of(domain, reading):
                characters[domain.name] += len(document.text)
                if (twin := known.get(text_hash(document.text))) is not None:
                    both.append(f"{document.place} is {twin.place}")
                advance(document)
    if both:
        more = f" and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
        raise DataRequestError(
            f"the probe overlaps with the sources: {'; '.join(both[:_SHOWN])}{more}: take them out, for "
            "example with wf data dedup, the probe's file first"
        )
    return characters
