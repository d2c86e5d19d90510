"""A model from the cache, or packed and kept there."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from ternary_kernels.format_race import choose_format
from ternary_kernels.loading import assemble
from ternary_kernels.memory import trim_heap
from ternary_kernels.packed.contents import facts_of, sections_of, weights_of
from ternary_kernels.packed.formats import FormatRecords
from ternary_kernels.packed.key import Key
from ternary_kernels.packed.layout import PackedFile, PackedFileError
from ternary_kernels.packed.settings import CacheSettings
from ternary_kernels.packed.store import NotKeptError, PackedStore
from ternary_kernels.packing import TernaryFormat
from ternary_kernels.screen import with_screen
from ternary_kernels.weights import ModelWeights
from wf_formats.chat_template import ChatTemplate
from wf_formats.content import model_files
from wf_formats.content_records import ContentRecords, files_sha256, identity_of
from wf_formats.errors import RequestError
from wf_formats.models import MasterQuantizer, ModelFile, open_model
from wf_formats.tokenizer import TokenizerError, TokenizerSource, read_tokenizer
from wf_formats.tokenizer.snapshot import NAMES, read_snapshot, snapshot
from wf_formats.tokenizer.vocabulary import source_beyond

_NOT_KEPT = "the packed model is not kept in %s, the next start packs it again: %s"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """What a server needs of a model."""

    weights: ModelWeights
    tokenizer: TokenizerSource
    is_mapped: bool
    """Whether the weights lie in a kept file, which other processes share."""


def load_packed(
    path: Path,
    quantize_master: MasterQuantizer | None = None,
    adapter: Path | None = None,
    settings: CacheSettings | None = None,
    has_screen: bool = False,
    format: TernaryFormat = "auto",
) -> LoadedModel:
    """Weights and tokenizer, from the cache where they are kept.

    Args:
        path, quantize_master, adapter, format: as `ternary_kernels.load_model`; which format `auto` took is
            remembered in the cache.
        settings: of the cache; None packs afresh and keeps nothing.
        has_screen: whether the head gets a screen (`ternary_kernels.screen`); what is kept has one anyway.

    Raises:
        LoadError, GgufError, OSError: as `load_model`.
        TokenizerError: as `wf_formats.tokenizer.read_tokenizer`.
        ChatTemplateError: the chat template is none.
    """
    wanted = _Wanted(path, quantize_master, adapter, format)
    if settings is None:
        model = _packed_afresh(wanted, has_screen)
    elif not settings.keeps_models:
        folder = settings.folder
        records = FormatRecords(folder, lambda words, error: _log.warning(words, folder, error))
        model = _packed_afresh(wanted, has_screen, records)
    else:
        model = _Cached(settings, wanted, has_screen).load()
    trim_heap()
    return model if has_screen else replace(model, weights=replace(model.weights, screen=None))


@dataclass(frozen=True)
class _Wanted:
    """A model, and how its ternary matrices are packed."""

    path: Path
    quantize_master: MasterQuantizer | None
    adapter: Path | None
    format: TernaryFormat

    @property
    def files(self) -> list[Path]:
        return [*model_files(self.path), *([] if self.adapter is None else [self.adapter])]

    def opened(self) -> ModelFile:
        return open_model(self.path, self.quantize_master, self.adapter)

    def key(self, files_sha256: str) -> Key:
        return Key.of(files_sha256, self.format)


class _Cached:
    """One model, and the cache."""

    def __init__(self, settings: CacheSettings, wanted: _Wanted, has_screen: bool) -> None:
        self._wanted, self._files = wanted, wanted.files
        self._folder, self._has_screen = settings.folder, has_screen
        self._store, self._records = PackedStore(settings), ContentRecords(settings.folder / "contents")
        self._formats = FormatRecords(settings.folder, self._warn)
        self._identity, self._is_warned = identity_of(self._files), False

    def load(self) -> LoadedModel:
        if not self._identity.is_settled:
            _log.info("%s changed just now: its packed form is kept at a later start", self._files[0])
            return _packed_afresh(self._wanted, self._has_screen, self._formats)
        sha256 = self._records.known(self._identity)
        if sha256 is not None and (found := self._find(self._wanted.key(sha256))) is not None:
            return found
        if self._wanted.opened().has_master_weights:
            return _packed_afresh(self._wanted, self._has_screen, self._formats)
        key = self._wanted.key(self._hashed() if sha256 is None else sha256)
        if sha256 is None and (found := self._find(key)) is not None:
            return found
        return self._kept(key, _packed_afresh(self._wanted, has_screen=True, records=self._formats))

    def _hashed(self) -> str:
        sha256 = files_sha256(self._files)
        try:
            self._store.prepare()
            self._records.add(self._identity, sha256)
        except OSError as error:
            self._warn(_NOT_KEPT, error)
        return sha256

    def _find(self, key: Key) -> LoadedModel | None:
        try:
            file = self._store.find(key.file_name)
            if file is None:
                return None
            try:
                return _mapped(file, key)
            except PackedFileError as error:
                self._store.discard(file.path, error)
        except (RequestError, OSError) as error:
            self._warn("the packed model in %s cannot be used and is packed again: %s", error)
        return None

    def _kept(self, key: Key, model: LoadedModel) -> LoadedModel:
        """The same model out of the cache, or as it is, with a warning."""
        rows, start_s = model.weights.config.vocab_size, time.perf_counter()
        if source_beyond(model.tokenizer, rows) is not None:
            return model  # whoever asked for it says so
        if (template := model.tokenizer.chat_template) is not None:
            ChatTemplate(template, model.tokenizer.special_tokens)
        if identity_of(self._files).digest != self._identity.digest:
            _log.warning("%s changed while it was read; its packed form is not kept", self._files[0])
            return model
        try:
            sections = sections_of(model.weights) | snapshot(model.tokenizer, rows)
            facts = {"key": key.facts} | facts_of(model.weights)
            kept = _mapped(self._store.keep(key.file_name, facts, sections), key)
        except (NotKeptError, PackedFileError, RequestError, TokenizerError, OSError) as error:
            self._warn(_NOT_KEPT, error)
            return model
        _log.info("packed model kept in %s (%.1f s)", self._folder, time.perf_counter() - start_s)
        return kept

    def _warn(self, words: str, error: Exception) -> None:
        """Says once what hinders: the folder is the same for all that is tried."""
        if not self._is_warned:
            _log.warning(words, self._folder, error)
        self._is_warned = True


def _packed_afresh(wanted: _Wanted, has_screen: bool, records: FormatRecords | None = None) -> LoadedModel:
    source = wanted.opened()
    format = choose_format(source, records) if wanted.format == "auto" else wanted.format
    weights, tokenizer = assemble(source, format), read_tokenizer(wanted.path)
    return LoadedModel(with_screen(weights, tokenizer) if has_screen else weights, tokenizer, is_mapped=False)


def _mapped(file: PackedFile, key: Key) -> LoadedModel:
    """Raises PackedFileError."""
    if file.facts.get("key") != key.facts:
        raise PackedFileError("it is of another model, instruction set or version")
    try:
        tokenizer = read_snapshot({name: file.array(name, _dtype(name)) for name in NAMES})
    except TokenizerError as error:
        raise PackedFileError(str(error)) from error
    return LoadedModel(weights_of(file), tokenizer, is_mapped=True)


def _dtype(name: str) -> str:
    return "<u4" if name.endswith("/ends") else "u1"
