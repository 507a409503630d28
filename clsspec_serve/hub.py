"""Models on the Hugging Face Hub, named `hf:owner/name[@revision]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from clsspec_serve.bundle import PLANS
from clsspec_serve.errors import SourceError, UsageError

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REFERENCE = re.compile(
    rf"hf:(?!.*\.\.)(?![^@]*--)(?P<owner_name>{_PART}/{_PART})(?:@(?P<revision>[\w.][\w./+-]*))?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubRef:
    """A repository of models, at a branch, tag or commit; no revision means `main`."""

    owner_name: str
    revision: str | None

    def __str__(self) -> str:
        return f"hf:{self.owner_name}" + (f"@{self.revision}" if self.revision else "")


def parse_hub(text: str) -> HubRef:
    """Read `hf:owner/name` or `hf:owner/name@revision`.

    Raises UsageError for anything else.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"not a Hugging Face Hub reference: got {text!r}, accepted is hf:owner/name[@revision]"
        )
    return HubRef(match["owner_name"], match["revision"])


def snapshot(ref: HubRef, allow_patterns: Sequence[str] | None = None) -> Path:
    """Bring the files that match a pattern into the Hub's own cache and return their folder.

    Cache, resuming and hashes are huggingface_hub's, and so are HF_HOME, HF_ENDPOINT, HF_TOKEN and
    HF_HUB_OFFLINE. What is cached already is also found without a network. Plans of TensorRT, which
    are native code, are not brought.

    Raises SourceError, whose message says what to do instead.
    """
    from huggingface_hub import snapshot_download

    patterns = None if allow_patterns is None else list(allow_patterns)
    try:
        folder = Path(
            snapshot_download(
                ref.owner_name,
                revision=ref.revision,
                allow_patterns=patterns,
                ignore_patterns=[f"{PLANS}/*"],
            )
        )
    # Its own errors, those of its HTTP library (httpx or httpx2, by version), xet's and the disk's
    # have no ancestor in common.
    except Exception as error:
        raise SourceError(_what_to_do(ref, error)) from error
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if not any(fnmatchcase(file, pattern) for file in files for pattern in patterns or ["*"]):
        wanted = "" if patterns is None else f" that matches {', '.join(patterns)}"
        raise SourceError(f"{ref} holds no file{wanted}")
    return folder


def _what_to_do(ref: HubRef, error: Exception) -> str:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{ref.owner_name}"
    by_hand = (
        f"download the files of {ref.owner_name} at revision {ref.revision or 'main'} "
        "on another machine and give the folder's path instead"
    )
    # A failed look-up in the cache hides the reason why the cache was asked at all.
    missed = isinstance(error, errors.LocalEntryNotFoundError)
    reason = error.__cause__ if missed and error.__cause__ is not None else error
    status = reason.response.status_code if isinstance(reason, errors.HfHubHTTPError) else None

    if isinstance(reason, errors.GatedRepoError):
        return f"{ref} is gated: accept its licence at {page} and log in with `hf auth login`"
    if isinstance(reason, errors.RevisionNotFoundError):
        return f"{ref.owner_name} has no revision {ref.revision!r}: see its branches at {page}"
    if isinstance(reason, errors.RepositoryNotFoundError):
        return f"{ref} does not exist or is private: check {page}, or log in with `hf auth login`"
    if status in (401, 403):
        return f"{ref}: access refused (HTTP {status}): log in with `hf auth login` and open {page}"
    if constants.HF_HUB_OFFLINE:
        return f"{ref} is not in the cache and HF_HUB_OFFLINE is set: unset it, or {by_hand}"
    first_line = next(iter(str(reason).strip().splitlines()), "") or type(reason).__name__
    return f"{ref} cannot be downloaded ({first_line}): {by_hand}"
