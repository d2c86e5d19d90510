"""Several sources mixed by weights that are shares of tokens, not of documents.

Each document's source is drawn with probability in proportion to
    max(0, w_i * (T + H) - t_i)
where w_i is the normalised weight, t_i the tokens of source i so far, T their sum and H a horizon
(65,536 tokens). At the start that is w_i, so shards are not in step; later a source that is behind
its share is preferred and one that is ahead by w_i * H waits, so shares are exact up to about H
tokens plus one document, however different the documents' lengths. The terms sum to H before
clipping, so some source can always be drawn. When weights change, what a source is ahead or behind
stays (t_i becomes t_i - w_i T by the weights of before), so that shares hold over changes that follow
each other faster than H tokens; counting starts anew when a source ends. Draws come from a hash of
(seed, shard, number of the draw): the state is a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_handler.config import SourceConfig, check_weight
from data_handler.encoding import AnswerMask, EncodedDocument, Encoder, TokenArray
from data_handler.errors import DataRequestError
from data_handler.examples import ExampleReading, encoded
from data_handler.held_out import HeldOut
from data_handler.stream import DEFAULT_BLOCK_DOCUMENTS, Position, TextStream, hash_fraction

HORIZON_TOKENS = 65_536


class MixedDocument(NamedTuple):
    """answers: which tokens are learned; None: all."""

    tokens: TokenArray
    source: str
    before: Position
    answers: AnswerMask | None = None


def check_sources(sources: Sequence[SourceConfig]) -> None:
    """Raises: DataRequestError if there is no source, a name is used twice, or all weights are 0."""
    if not sources:
        raise DataRequestError("no data source is configured; give at least one")
    names = [source.name for source in sources]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise DataRequestError(f"source names must differ; used more than once: {sorted(doubled)}")
    merge_weights({}, {source.name: source.weight for source in sources}, names)


def merge_weights(
    current: Mapping[str, float], changes: Mapping[str, float], names: Sequence[str]
) -> dict[str, float]:
    """`current` with `changes`. Raises: DataRequestError for an unknown name, a bad weight or all 0."""
    for name, weight in changes.items():
        if name not in names:
            raise DataRequestError(f"no source is named {name!r}; the sources are {list(names)}")
        check_weight(name, weight)
    merged = {**current, **{name: float(weight) for name, weight in changes.items()}}
    if not any(merged.values()):
        raise DataRequestError(f"the weights of all sources are 0: {merged}")
    return merged


class MixedStream:
    """Iterates over `MixedDocument`s of one shard; `state_dict` is that of the last one yielded."""

    def __init__(
        self,
        sources: Sequence[SourceConfig],
        tokenizer: Any,
        shard: int = 0,
        num_shards: int = 1,
        seed: int = 0,
        block_documents: int = DEFAULT_BLOCK_DOCUMENTS,
        max_example_tokens: int | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        """Args: max_example_tokens is the longest supervised record, None: any; held_out: see TextStream."""
        check_sources(sources)
        self.encoder = Encoder(tokenizer)
        self._seed, self._shard = seed, shard
        self._readings = {
            source.name: ExampleReading(source, self.encoder, max_example_tokens)
            for source in sources
            if source.record_format is not None
        }
        self._texts = {
            source.name: TextStream(
                source, shard, num_shards, seed, block_documents, self._readings.get(source.name), held_out
            )
            for source in sources
        }
        self._weights = {source.name: float(source.weight) for source in sources}
        self._documents: dict[str, Iterator[EncodedDocument]] = {}
        self._positions = {name: Position() for name in self._texts}
        self._finished: list[str] = []
        self._tokens: dict[str, float] = dict.fromkeys(self._texts, 0)
        self._draws = 0

    @property
    def names(self) -> list[str]:
        """Of the sources, in the order of the configuration."""
        return list(self._texts)

    @property
    def weights(self) -> dict[str, float]:
        return dict(self._weights)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """New weights from the next document on; sources that are not named keep theirs."""
        merged = merge_weights(self._weights, weights, self.names)
        shares = self._shares()
        total = sum(self._tokens[name] for name in shares)
        ahead = {name: self._tokens[name] - share * total for name, share in shares.items()}
        self._tokens = dict.fromkeys(self._texts, 0) | ahead
        self._weights = merged

    def _shares(self) -> dict[str, float]:
        """Of the sources that can be drawn; they sum to 1, and there may be none."""
        weights = {n: w for n, w in self._weights.items() if w > 0 and n not in self._finished}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def _restart_count(self) -> None:
        self._tokens = dict.fromkeys(self._texts, 0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "positions": {name: position.to_json() for name, position in self._positions.items()},
            "weights": dict(self._weights),
            "tokens": dict(self._tokens),
            "draws": self._draws,
            "finished": list(self._finished),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._positions = {name: Position.from_json(state["positions"][name]) for name in self._texts}
        self._weights = dict(state["weights"])
        self._tokens = dict(state["tokens"])
        self._draws = state["draws"]
        self._finished = list(state["finished"])
        self._documents = {}

    def __iter__(self) -> Iterator[MixedDocument]:
        while (name := self._draw()) is not None:
            document = self.next_of(name)
            if document is None:
                self._finished.append(name)
                self._restart_count()
            else:
                self._tokens[name] += len(document.tokens)
                yield document

    def next_of(self, name: str) -> MixedDocument | None:
        """The next document of one source, not counted in the mixture; None at its end."""
        if name not in self._documents:
            texts = self._texts[name]
            texts.position = self._positions[name]
            self._documents[name] = encoded(texts) if name in self._readings else self.encoder.stream(texts)
        document = next(self._documents[name], None)
        if document is None:
            self._positions[name] = self._texts[name].position  # past the bad records at its end
            return None
        self._positions[name] = document.after
        return MixedDocument(document.tokens, name, document.before, document.answers)

    def _draw(self) -> str | None:
        shares = self._shares()
        if not shares:
            return None
        self._draws += 1
        reach = sum(self._tokens[name] for name in shares) + HORIZON_TOKENS
        chances = {name: max(0.0, share * reach - self._tokens[name]) for name, share in shares.items()}
        point = hash_fraction("mix", self._seed, self._shard, self._draws) * sum(chances.values())
        for name, chance in chances.items():
            point -= chance
            if point < 0:
                return name
        return max(chances, key=chances.__getitem__)  # rounding left point at 0
