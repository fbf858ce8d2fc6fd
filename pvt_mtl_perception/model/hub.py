"""Files on the Hugging Face hub: fetched when a source is named ``hf://…``, cached, and pushed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    parse_hf_uri,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HfUriError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]

SYNTAX = "hf://owner/name[@revision][/file]"
CHECKPOINT_FILE = "model.safetensors"


class HubError(OSError):
    """The hub could not be reached, or lacks what was asked for; the message says which."""


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turns the hub's errors into a ``HubError`` that names ``what`` and what would be right.

    Args:
        what: the source, as the user gave it.
    """
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{what}: {_unreachable()}, and the file is not in the cache {constants.HF_HUB_CACHE}; "
            "without a network give the path of a local file"
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubError(f"{what}: {_unreachable()}") from error
    except GatedRepoError as error:
        raise HubError(f"{what}: access has to be granted on the hub's page first") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{what}: the hub has no such repository, or it is private: `hf auth login`, or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{what}: the repository has no such branch, tag or commit") from error
    except RemoteEntryNotFoundError as error:
        raise HubError(f"{what}: the repository has no such file") from error
    except HfHubHTTPError as error:
        answer = str(error).strip().splitlines()[0]
        if error.response.status_code in (401, 403):
            answer += "; it wants a token with the right to do this: `hf auth login`, or set HF_TOKEN"
        raise HubError(f"{what}: the hub answered: {answer}") from error
    except TransportError as error:
        raise HubError(f"{what}: {_unreachable()}") from error


def _unreachable() -> str:
    reason = " because HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return f"the hub at {constants.ENDPOINT} cannot be reached{reason}"


def hub_uri(source: str | Path) -> str | None:
    """``source`` as an ``hf://`` address, or None for a path.

    An address that has gone through ``Path`` has lost one of its slashes, and is recognised all the same.
    """
    text = str(source)
    for prefix in ("hf://", "hf:/"):
        if text.startswith(prefix):
            return f"hf://{text[len(prefix) :]}"
    return None


def source_name(source: str | Path) -> str:
    """What to call the model of a source: a file's stem, or the name of the repository on the hub."""
    address = hub_uri(source)
    if address is None:
        return Path(source).stem
    return address.removeprefix("hf://").split("/")[1].partition("@")[0]


def fetch_file(repository: str, file: str, revision: str | None) -> Path:
    """A file of a model repository in the hub's cache, fetched where it is absent or has changed.

    Raises:
        HubError: see ``hub_errors``.
    """
    with hub_errors(f"hf://{repository}{f'@{revision}' if revision else ''}/{file}"):
        return _fetch(repository, file, revision)


def _fetch(repository: str, file: str, revision: str | None) -> Path:
    cached_only = False
    try:
        # One question without retries: hf_hub_download by itself tries for 23 s before it gives up.
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))
    except HfHubHTTPError:
        raise
    except (TransportError, OfflineModeIsEnabled):
        cached_only = True
    return Path(hf_hub_download(repository, file, revision=revision, local_files_only=cached_only))


def resolve_checkpoint(source: str | Path) -> Path:
    """The local file of a source; nothing is fetched unless it is an ``hf://`` address.

    A fetched file stays in the hub's cache (``HF_HOME``), and an address that is cached also works offline.
    An address without a file means the repository's ``model.safetensors``, or the only file with that ending.

    Args:
        source: a path, which is returned as it is, or ``hf://owner/name[@revision][/file]``.

    Raises:
        HubError: offline and not cached, or no such repository, revision or file.
        ValueError: for a malformed address.
    """
    address = hub_uri(source)
    if address is None:
        return Path(source)
    try:
        uri = parse_hf_uri(address)
    except (HfUriError, HFValidationError) as error:
        raise ValueError(f"{address} is not like {SYNTAX} ({error})") from None
    if uri.type != "model":
        raise ValueError(f"{address} names a {uri.type}, not a model repository; needs {SYNTAX}")
    with hub_errors(address):
        if uri.path_in_repo:
            return _fetch(uri.id, uri.path_in_repo, uri.revision)
        try:
            return _fetch(uri.id, CHECKPOINT_FILE, uri.revision)
        except RemoteEntryNotFoundError:
            files = HfApi().list_repo_files(uri.id, revision=uri.revision)
        found = sorted(name for name in files if name.endswith(".safetensors"))
        if len(found) != 1:
            names = f"several: {', '.join(found)}; add one to the address" if found else "none"
            raise HubError(
                f"{address}: of {CHECKPOINT_FILE} or one other .safetensors file the repository has {names}"
            )
        return _fetch(uri.id, found[0], uri.revision)


def push_files(repository: str, files: dict[str, Path | bytes], private: bool, revision: str | None) -> str:
    """Uploads files to a model repository in one commit; repository and branch are made where absent.

    Args:
        repository: ``owner/name``.
        files: by name in the repository, a path or the content.
        private: whether a new repository is private; an existing one stays what it is.
        revision: branch; None for ``main``.

    Returns:
        The commit's address.

    Raises:
        HubError: offline, without a token that may write there, or refused by the hub.
        ValueError: for a malformed name.
    """
    if repository.count("/") != 1:
        raise ValueError(f"{repository!r} is not a repository; needs owner/name")
    api = HfApi()
    with hub_errors(repository):
        try:
            # None leaves it to the owner: an organisation may make its repositories private.
            api.create_repo(repository, private=private or None, exist_ok=True)
        except HFValidationError as error:
            raise ValueError(f"{repository!r} is not a repository: {error}") from None
        if revision is not None and revision != constants.DEFAULT_REVISION:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=f"Upload {', '.join(files)}",
            revision=revision,
        )
    return commit.commit_url
