"""Publishing on the Hugging Face hub: one commit with all files, and what goes wrong in a line.

1. The repository is made where it is not there yet; a branch likewise.
2. What it holds is looked at: a card of another author, or changed by hand, stays unless it was said to go.
   Where everything is there as it is, by the hashes of git and of its large files, that is all.
3. One commit adds model files, card and checksums. It names the commit that was looked at as its parent:
   whoever wrote meanwhile is not written over.

Requests that are answered with "not now" (429, 5xx) are sent again, files that have arrived are not: the same
command goes on after a connection that was cut. The token is the hub's own affair: HF_TOKEN, or
what `hf auth login` stored. It is never shown: errors are told by status and reason, not by URL.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its client's, unsaid
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # re-exported, unsaid

from wf_converter.repository import id_fault
from wf_formats.digests import file_sha256
from wf_formats.errors import RequestError, UserError
from wf_formats.file_names import CARD_FILE
from wf_formats.printable import printable
from wf_formats.secrets import redacted

CHECKSUMS_FILE = "SHA256SUMS"
STALLED_S = 300.0
"""Without a byte of an answer; the hub's client would wait for ever."""
_WAITS_S = (1.0, 2.0, 4.0, 8.0)
_PASSING = (429, 500, 502, 503, 504)
_NO_ROOM = (402, 413, 507)
_ROOM_WORDS = ("quota", "storage", "limit reached", "exceed")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
_MAKE_ROOM = "remove something there, or ask for more room in the hub's settings"
_STORAGE_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})")
"""In the words of the storage's client."""
_Answer = TypeVar("_Answer")


class PublishError(UserError):
    """Nothing was published, for a reason that is the hub's or the network's."""


class PublishRefusedError(RequestError):
    """Nothing was published, for a reason that the user can mend."""


@dataclass(frozen=True)
class Destination:
    """Where an export goes, and how."""

    repository: str
    private: bool
    revision: str
    commit_message: str
    overwrite_card: bool

    def __post_init__(self) -> None:
        """Raises: RequestError for a name that the hub does not take."""
        if (fault := id_fault(self.repository)) is not None:
            raise RequestError(f"{self.repository!r:.120} is no repository of the hub: {fault}")
        if "/" not in self.repository:
            raise RequestError(f"{self.repository!r} names no owner: give ORG/{self.repository}")
        if not _is_branch(self.revision):
            raise RequestError(f"--revision {self.revision!r:.120} is no name of a branch; give one, as main")
        if not self.commit_message.strip() or not self.commit_message.isprintable():
            raise RequestError(
                f"--commit-message {self.commit_message!r:.120} is no line of text; give a few words"
            )


@dataclass(frozen=True)
class Published:
    """address: of the commit that has everything; is_new: whether it was made for this."""

    address: str
    is_new: bool


def _is_branch(name: str) -> bool:
    """As `git check-ref-format --branch`, but for what nobody calls a branch."""
    parts = name.split("/")
    return (
        name.isascii()
        and all(
            part and part[0] not in ".-" and not part.endswith((".", ".lock")) and ".." not in part
            for part in parts
        )
        and all(char.isalnum() or char in "._-/" for char in name)
    )


def check_token() -> None:
    """Raises: PublishRefusedError where there is no token, or none that the hub takes; PublishError."""
    token = huggingface_hub.get_token()
    if token is None:
        raise PublishRefusedError(f"there is no token for the hub: {_LOG_IN}")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise PublishRefusedError(f"the token for the hub has characters that no token has: {_LOG_IN}")
    with told("the hub"):
        patiently(lambda: HfApi().whoami())


def publish(
    destination: Destination,
    files: Mapping[str, Path],
    card: str,
    checksums: str,
    is_replaceable: Callable[[str], bool],
) -> Published:
    """Sends everything in one commit, unless it is all there.

    Args:
        files: name in the repository -> file.
        card: text of README.md.
        checksums: text of SHA256SUMS.
        is_replaceable: whether a card of that text, which is there already, has nothing of anybody's own.

    Raises:
        PublishRefusedError, PublishError: nothing was published.
        OSError: a file cannot be read.
    """
    api, repository = HfApi(), destination.repository
    get_session().timeout = STALLED_S
    with told(repository):
        patiently(lambda: api.create_repo(repository, private=destination.private or None, exist_ok=True))
        head = _head(api, destination)
        theirs = _card_there(api, repository, head)
        if not (destination.overwrite_card or theirs in (None, "", card) or is_replaceable(str(theirs))):
            raise PublishRefusedError(
                f"{repository} has a README.md that WrinkleFree did not write, or that was changed since: "
                "pass --overwrite-card to replace it (git keeps the old one), or choose another repository"
            )
        texts = {CARD_FILE: card.encode(), CHECKSUMS_FILE: checksums.encode()}
        if _are_there(api, repository, head, files, texts):
            return Published(f"{endpoint()}/{repository}/commit/{head}", is_new=False)
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [CommitOperationAdd(name, text) for name, text in texts.items()]
        done = patiently(
            lambda: api.create_commit(
                repository,
                operations,
                commit_message=destination.commit_message,
                revision=destination.revision,
                parent_commit=head,
            )
        )
    return Published(str(done.commit_url), is_new=done.oid != head)


def _head(api: HfApi, destination: Destination) -> str | None:
    """The newest commit of the branch, which is made where it is missing.

    Raises: PublishRefusedError for a public repository that was to be private.
    """
    repository, revision = destination.repository, destination.revision

    def ask() -> Any:
        return patiently(lambda: api.model_info(repository, revision=revision))

    try:
        info = ask()
    except RevisionNotFoundError:
        patiently(lambda: api.create_branch(repository, branch=revision, exist_ok=True))
        info = ask()
    if destination.private and not info.private:
        raise PublishRefusedError(
            f"{repository} is public, and --private was asked for: make it private in its settings, choose "
            "another name, or leave --private out"
        )
    head: str | None = info.sha
    return head


def _card_there(api: HfApi, repository: str, head: str | None) -> str | None:
    """Text of the README.md of a commit; None where the hub says that there is none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = patiently(
                lambda: api.hf_hub_download(repository, CARD_FILE, revision=head, local_dir=folder)
            )
        except RemoteEntryNotFoundError:  # a hub that cannot be asked is another error
            return None
        return Path(path).read_bytes().decode(errors="replace")


def _are_there(
    api: HfApi, repository: str, head: str | None, files: Mapping[str, Path], texts: Mapping[str, bytes]
) -> bool:
    """Whether a commit has all of it, byte for byte."""
    names = [*files, *texts]
    found = patiently(lambda: api.get_paths_info(repository, names, revision=head))
    there = {file.path: file for file in found if isinstance(file, RepoFile)}
    if there.keys() != set(names):
        return False
    return all(is_same(there[name], text) for name, text in texts.items()) and all(
        is_same(there[name], path) for name, path in files.items()
    )


def is_same(there: RepoFile, here: Path | bytes) -> bool:
    """By the SHA-256 of a large file, by git's own hash of another."""
    size = len(here) if isinstance(here, bytes) else here.stat().st_size
    if there.size != size:
        return False
    if there.lfs is not None and isinstance(here, Path):
        return there.lfs.sha256 == file_sha256(here)
    data = here if isinstance(here, bytes) else here.read_bytes()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % size + data, usedforsecurity=False).hexdigest()


def patiently(ask: Callable[[], _Answer]) -> _Answer:
    """Asks again after answers that say "not now"."""
    for wait_s in _WAITS_S:
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in _PASSING:
                raise
        except JSONDecodeError:  # the page of a proxy
            pass
        time.sleep(wait_s)
    return ask()


@contextmanager
def told(repository: str) -> Iterator[None]:
    """What goes wrong with the hub, in a line: what it is, and what to do."""
    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError, KeyError) as error:
        found = _user_error(error, repository)
        if found is None:
            raise
        raise found from error


def _user_error(error: BaseException, repository: str) -> UserError | None:
    """None for what is told already, or is not the hub's: the error of a local file, a bug."""
    if isinstance(error, UserError):
        return None
    if isinstance(error, OfflineModeIsEnabled):
        return PublishRefusedError("HF_HUB_OFFLINE forbids to ask the hub: unset it")
    if isinstance(error, HfHubHTTPError):
        return _of_status(error.response.status_code, _reason(error.server_message), repository)
    if isinstance(error, OSError) and error.filename is not None:
        return None
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of the thread that sent a file
        return _user_error(error.__cause__, repository)
    if isinstance(error, PermissionError):  # of the storage
        return PublishRefusedError(f"the hub's storage does not take the token: {_LOG_IN}")
    if isinstance(error, JSONDecodeError | KeyError):
        return PublishError(f"{endpoint()} does not answer as a hub does: check HF_ENDPOINT, try again later")
    if isinstance(error, ValueError):  # the card's front matter, or the storage's answer
        return _of_refusal(_reason(str(error)))
    if not isinstance(error, HTTPError | OSError | RuntimeError):
        return None
    if found := _STORAGE_STATUS.search(str(error)):
        return _of_status(int(found[1]), "", repository)
    reason = _reason(str(error)) or type(error).__name__
    return PublishError(f"the connection to {endpoint()} broke ({reason}): try again, it goes on from there")


def _of_status(status: int, reason: str, repository: str) -> UserError:
    told = f"{status}: {reason}" if reason else str(status)
    if status in _NO_ROOM or (status == 403 and _is_of_room(reason)):
        return PublishRefusedError(f"there is no room for {repository} ({told}): {_MAKE_ROOM}")
    if status == 401:
        return PublishRefusedError(f"the hub does not take the token ({told}): {_LOG_IN}")
    if status == 403:
        return PublishRefusedError(
            f"the token may not write to {repository} ({told}): take a repository of yours or of an "
            "organization that you are in, and a token that may write"
        )
    if status == 404:
        return PublishRefusedError(
            f"{repository} is not there, or hidden from this token ({told}): check the name and the token"
        )
    if status in (409, 412):
        return PublishError(f"{repository} was changed by somebody else meanwhile ({told}): try again")
    if status in _PASSING:
        return PublishError(f"{endpoint()} does not serve this now ({told}): try again later")
    return PublishRefusedError(f"the hub refuses {repository} ({told})")


def _of_refusal(reason: str) -> UserError:
    if _is_of_room(reason):
        return PublishRefusedError(f"there is no room on the hub ({reason}): {_MAKE_ROOM}")
    return PublishRefusedError(
        f"the hub refuses this: {reason}; a licence of its list is given with --license"
    )


def _is_of_room(reason: str) -> bool:
    return any(word in reason.lower() for word in _ROOM_WORDS)


def _reason(text: str | None) -> str:
    """Words of a server, fit for a line of ours."""
    return printable(redacted(" ".join((text or "").split())))


def endpoint() -> str:
    return redacted(huggingface_hub.constants.ENDPOINT)
