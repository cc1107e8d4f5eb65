"""Models of the Hugging Face Hub, in its local cache."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from llmrecipe.pretrained.folder import CONFIG, INDEX
from llmrecipe.pretrained.missing import Missing
from llmrecipe.recipe.model import PretrainedModel

_UNREAD = ["*/*", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf"]
"""Files that nothing here reads."""


def cached(model: PretrainedModel) -> Path | None:
    """The folder of a model in the local cache, which may lack files; None if it has none, or no configuration."""
    # This module alone loads in a fraction of the time of the package.
    from huggingface_hub import constants

    name = "--".join(("models", *str(model.hub).split("/")))
    folder = Path(constants.HF_HUB_CACHE) / name / "snapshots" / str(model.revision)
    return folder if (folder / CONFIG).is_file() else None


def configuration(model: PretrainedModel) -> Path:
    """The folder of a model in the local cache after its configuration was fetched, and the index of its shards.

    Raises:
        Missing: it can't be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetch() -> Path:
        place = Path(hf_hub_download(str(model.hub), CONFIG, revision=model.revision)).parent
        # There is none where all of its weights are in one file.
        with suppress(EntryNotFoundError):
            hf_hub_download(str(model.hub), INDEX, revision=model.revision)
        return place

    return _fetched(model, fetch)


def download(model: PretrainedModel) -> Path:
    """The folder of a model in the local cache after all of its files were fetched that aren't there yet.

    Without a network it is what the cache has, which may lack files.

    Raises:
        Missing: they can't be fetched, and the cache has nothing.
    """
    from huggingface_hub import snapshot_download

    found = cached(model)
    if found is not None and not _is_in_reach():
        return found

    return _fetched(
        model, lambda: Path(snapshot_download(str(model.hub), revision=model.revision, ignore_patterns=_UNREAD))
    )


def _fetched(model: PretrainedModel, fetch: Callable[[], Path]) -> Path:
    from httpx import HTTPError
    from huggingface_hub import errors

    if not _is_in_reach():
        raise _unreachable(model, "there is no network")
    try:
        return fetch()
    except errors.GatedRepoError as error:
        reason = f"{model.hub!r} is for those who accepted its terms; do so on its page, and `hf auth login`"
        raise Missing("hub", reason) from error
    except errors.RevisionNotFoundError as error:
        raise Missing("revision", f"{model.hub!r} has no commit {model.revision}; copy one from its page") from error
    except errors.RepositoryNotFoundError as error:
        reason = f"the Hub has no model {model.hub!r}, or it is private, and needs `hf auth login`"
        raise Missing("hub", reason) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(model, "the Hub doesn't answer") from error
    except errors.EntryNotFoundError as error:
        raise Missing("hub", f"{model.hub!r} has no {CONFIG} at this commit, so it is in another format") from error
    except (OSError, ValueError, HTTPError) as error:
        raise _unreachable(model, f"the Hub can't be reached ({error})") from error


def _is_in_reach() -> bool:
    """Whether the Hub may answer; its package asks five times, for half a minute, before it says that it doesn't."""
    # Here: most recipes name nothing of the Hub.
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        # A proxy may know names that this machine doesn't.
        return bool(getproxies())
    return True


def _unreachable(model: PretrainedModel, reason: str) -> Missing:
    name = str(model.hub).rpartition("/")[2]
    return Missing(
        "hub",
        f"{model.hub!r} is not in this machine's cache, and {reason}; where it can be had: `hf download "
        f"{model.hub} --revision {model.revision} --local-dir models/{name}`, then path='models/{name}' in place of "
        "hub and revision",
    )
