"""What servers of OpenAI's API answer, checked: a URL may lead to anything, an answer may stop midway.

Bodies are read up to a limit and validated; what a server says beyond the fields below is left alone. A
stream is whole if `[DONE]` or a reason of the end has come. All else is a `BadAnswerError` whose message
shows what was got instead, fit for a terminal.

Sources: platform.openai.com/docs/api-reference (models, chat/streaming, completions); event streams:
html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wf_formats.printable import printable
from wrinklefree_inference.engines.base import Counts

_BODY_BYTES = 16 << 20
_EVENT_BYTES = 1 << 20
_DONE = b"[DONE]"
_Count = Annotated[int, Field(ge=0)]


class BadAnswerError(ValueError):
    """Not what the API promises; the message goes after the server's URL."""


class _Answered(BaseModel):
    model_config = ConfigDict(strict=True, protected_namespaces=())


class Meta(_Answered):
    """What llama.cpp tells of a model besides."""

    size: _Count | None = None
    n_params: _Count | None = None
    n_ctx: _Count | None = None
    ftype: str | None = None


class ListedModel(_Answered):
    """An entry of `/v1/models`; vLLM and SGLang add the context in tokens."""

    id: str
    max_model_len: _Count | None = None
    meta: Meta | None = None


class _Models(_Answered):
    data: list[ListedModel]


class _Delta(_Answered):
    content: str | None = None


class _Choice(_Answered):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def piece(self) -> str:
        """What it adds to the answer, of a chat or of a completion."""
        return (self.delta.content if self.delta else self.text) or ""


class _Usage(_Answered):
    prompt_tokens: _Count
    completion_tokens: _Count


class _Chunk(_Answered):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Refusal(_Answered):
    error: Any


Kind = TypeVar("Kind", bound=BaseModel)


def listed_models(pieces: Iterable[bytes]) -> list[ListedModel]:
    """The models in the body of `/v1/models`."""
    return _checked(_Models, _whole(pieces), "a list of models").data


def refusal(pieces: Iterable[bytes]) -> str:
    """The reason in the body of an error: OpenAI's message, else what it begins with."""
    body = _whole(pieces)
    try:
        return _message(_Refusal.model_validate_json(body).error)
    except ValidationError:
        return printable(body[:300].decode("utf-8", "replace").strip()) or "without a reason"


def answer_pieces(stream: Iterable[bytes]) -> Iterator[str | Counts]:
    """Text as it comes, then the tokens if the server counts them."""
    usage, is_whole = None, False
    for event in _events(stream):
        if event.startswith(_DONE):
            is_whole = True
            break
        chunk = _chunk(event)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            is_whole = is_whole or bool(choice.finish_reason)
            if choice.piece:
                yield choice.piece
    if not is_whole:
        raise BadAnswerError(
            "cut off the answer: its stream ended without [DONE] and without a finish_reason"
        )
    if usage is not None:
        yield Counts(usage.prompt_tokens, usage.completion_tokens)


def _chunk(event: bytes) -> _Chunk:
    chunk = _checked(_Chunk, event, "a piece of an answer")
    if chunk.error:
        raise BadAnswerError(f"broke off the answer: {_message(chunk.error)}")
    if "choices" not in chunk.model_fields_set:
        raise BadAnswerError(
            f"did not answer with a piece of an answer: it has no choices, got {_got(event)}"
        )
    return chunk


def _checked(kind: type[Kind], body: bytes, what: str) -> Kind:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        raise BadAnswerError(
            f"did not answer with {what}: {place}{first['msg']}, got {_got(first['input'])}"
        ) from error


def _got(value: object) -> str:
    """How Python writes it: control characters and bytes are escaped."""
    return printable(repr(value), 100)


def _message(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return printable(message) if isinstance(message, str) and message else _got(error)


def _whole(pieces: Iterable[bytes]) -> bytes:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > _BODY_BYTES:
            raise BadAnswerError(f"answered with more than {_BODY_BYTES >> 20} MiB")
    return bytes(body)


def _events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event; lines of another kind and comments are skipped."""
    event = bytearray()
    for line in _lines(pieces):
        if line.startswith(b"data:"):
            event += line.removeprefix(b"data:").lstrip() + b"\n"
            _check_event(event)
        elif not line and event:
            yield bytes(event)
            event.clear()
    if event:
        yield bytes(event)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines; of a last one without an end, which was cut off, none but the mark of the end.

    CR LF, LF and CR end a line, as in `bytes.splitlines`; the two of CR LF may come in two pieces.
    """
    rest, has_cr = b"", False
    for piece in filter(None, pieces):
        new = piece.removeprefix(b"\n") if has_cr else piece
        has_cr = piece.endswith(b"\r")
        *lines, rest = [*(rest + new).splitlines(keepends=True), b""]
        if lines and not lines[-1].endswith((b"\r", b"\n")):
            rest = lines.pop()
        yield from (line.rstrip(b"\r\n") for line in lines)
        _check_event(rest)
    if rest.removeprefix(b"data:").strip() == _DONE:
        yield rest


def _check_event(event: bytes | bytearray) -> None:
    if len(event) > _EVENT_BYTES:
        raise BadAnswerError(f"sent a piece of an answer of more than {_EVENT_BYTES >> 20} MiB")
