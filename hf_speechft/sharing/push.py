"""Upload a finished run to the Hub, and find out before hours of training whether that will be allowed."""

import logging
import os
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id

from .save import TEMPORARY_PREFIX

logger = logging.getLogger(__name__)

# fnmatch patterns over paths relative to the folder; "*" crosses "/".
IGNORE_PATTERNS = (
    "checkpoint-*/*",
    "unevaluated/*",  # checkpoints too
    "stream/*",
    "warmup/*",
    "global_step*/*",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "training_args.bin",  # a pickle that may hold the token
    "unreadable.jsonl",  # paths of this machine
    "runs/*",
    "*.tmp",
    f"{TEMPORARY_PREFIX}*",
)

_HOW_TO_LOG_IN = (
    "log in with `hf auth login` or set HF_TOKEN to a token with write permission "
    "(https://huggingface.co/settings/tokens)"
)


class HubError(ValueError):
    """The Hub refused or could not be reached; the message says what to do."""


def check_token(repo_id: str, token: str | None = None, *, endpoint: str | None = None) -> str:
    """Make sure that the token exists, is valid and may write to the repository's namespace.

    A fine-grained token is accepted without looking at its scopes.

    Args:
        repo_id: "name" or "namespace/name".
        token: access token; by default HF_TOKEN or the one stored by `hf auth login`.
        endpoint: address of the Hub; by default HF_ENDPOINT or https://huggingface.co.

    Returns:
        The repository's full id, "namespace/name".

    Raises:
        HubError: if the id is malformed, there is no token, the Hub refuses it or cannot be reached, the token can
            only read, or the namespace is not the user's.
    """
    _check_repo_id(repo_id)
    # None would make the client send a stored token, and an empty string is what an unset variable expands to.
    api = HfApi(endpoint=endpoint, token=token or None)
    try:
        user = api.whoami()
    except LocalTokenNotFoundError as error:
        raise HubError(
            f"no Hugging Face token found, and pushing to {repo_id!r} needs one; {_HOW_TO_LOG_IN}"
        ) from error
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, api.endpoint, repo_id, token)) from error
    except (HTTPError, OSError) as error:
        raise HubError(
            f"the Hub at {api.endpoint} cannot be reached ({error}), so the token for {repo_id!r} cannot be checked; "
            "check the connection and HF_HUB_OFFLINE, or train without --push_to_hub and upload later"
        ) from error
    _check_role(user, repo_id)
    return _full_id(user, repo_id)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    commit_message: str = "Upload speech recogniser",
    endpoint: str | None = None,
) -> str:
    """Create the model repository if absent and upload a run's folder without its checkpoints and optimizer state.

    Args:
        folder: the run's output folder.
        repo_id: "name" or "namespace/name".
        token: access token; by default HF_TOKEN or the one stored by `hf auth login`.
        private: whether a repository that is created is private; None is the namespace's default.
        commit_message: title of the commit.
        endpoint: address of the Hub; by default HF_ENDPOINT or https://huggingface.co.

    Returns:
        The repository's web address.

    Raises:
        HubError: if there is nothing to upload, or the upload fails for whatever reason. The folder is not changed,
            and the message has the command that uploads it later.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder; give the run's output folder")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if not list(filter_repo_objects(files, ignore_patterns=list(IGNORE_PATTERNS))):
        raise HubError(f"{folder} holds nothing to upload besides checkpoints; finish a run in it first")
    _check_repo_id(repo_id)
    api = HfApi(endpoint=endpoint, token=token or None)
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            commit_message=commit_message,
            ignore_patterns=list(IGNORE_PATTERNS),
        )
    # Whatever an upload can raise (HTTP, Xet, threads, files), the person needs to know that the run is safe.
    except Exception as error:
        raise HubError(
            f"uploading {folder} to {repo_id!r} failed: {_in_one_line(error)}. The run is safe in {folder}; upload it "
            f"later with: {upload_command(folder, repo_id)}"
        ) from error
    url = str(repository)
    logger.info("uploaded %s to %s", folder, url)
    return url


def upload_command(folder: str | os.PathLike[str], repo_id: str) -> str:
    """Return the command line that uploads what `push_folder` would.

    >>> upload_command("out", "user/name")[:24]
    'hf upload user/name out '
    """
    # One --exclude for each pattern: the command reads one value after each.
    excluded = [part for pattern in IGNORE_PATTERNS for part in ("--exclude", pattern)]
    return shlex.join(["hf", "upload", repo_id, str(folder), ".", *excluded])


def _check_repo_id(repo_id: str) -> None:
    """Refuse an id that the Hub would refuse."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no repository id ({error}); give 'name' or 'namespace/name'") from error


def _refusal(error: HfHubHTTPError, endpoint: str, repo_id: str, token: str | None) -> str:
    """Describe a refused token without showing it."""
    status = error.response.status_code
    origin = "given as an argument" if token else "from HF_TOKEN or `hf auth login`"
    if status in (401, 403):
        return (
            f"the Hub at {endpoint} refused the token {origin} (HTTP {status}), and pushing to {repo_id!r} needs a "
            f"valid one; {_HOW_TO_LOG_IN}"
        )
    return f"the Hub at {endpoint} answered HTTP {status} when asked whose token it is; try again later"


def _check_role(user: dict[str, Any], repo_id: str) -> None:
    """Refuse a token that can only read."""
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise HubError(
            f"the token of {user['name']!r} has read permission, and pushing to {repo_id!r} needs write permission; "
            f"{_HOW_TO_LOG_IN}"
        )


def _full_id(user: dict[str, Any], repo_id: str) -> str:
    """Add the namespace where there is none; refuse one that the token cannot write to."""
    if "/" not in repo_id:
        return f"{user['name']}/{repo_id}"
    namespace = repo_id.split("/")[0]
    writable = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if namespace not in writable:
        raise HubError(
            f"the token belongs to {user['name']!r}, who cannot write to {repo_id!r}; "
            f"choose a namespace among {writable}"
        )
    return repo_id


def _in_one_line(error: BaseException) -> str:
    """Return what went wrong: the error's first line, and the server's own words where it holds others."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    description = f"{type(error).__name__}: {lines[0] if lines else 'no details'}".rstrip(".:")
    answer: BaseException | None = error
    while answer is not None and not isinstance(answer, HfHubHTTPError):
        answer = answer.__cause__ or answer.__context__
    words = answer.server_message if answer is not None else None
    return description if not words or words in description else f"{description} ({words})"
