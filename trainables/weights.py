"""Pretrained weights: checkpoint files read safely, downloads that fail fast, and one identity for both."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from trainables.errors import TwofoldError

T = TypeVar("T")

_SUFFIXES = (".pt", ".pth", ".safetensors", ".bin")
_PROBE_SECONDS = 4.0
_NO_DOWNLOAD = "or use `efficientnet_lite0`, which needs no download."


def split_name(argument: str) -> tuple[str, str | None]:
    """Split ``<model>/<rest>`` at its first slash; the rest may hold slashes, ``None`` when absent."""
    model, slash, rest = argument.partition("/")
    return model, rest if slash and rest else None


def is_checkpoint(value: str) -> bool:
    """Whether ``value`` names a file rather than a tag."""
    return value.endswith(_SUFFIXES) or "/" in value or Path(value).expanduser().is_file()


def checkpoint_identity(path: str) -> str:
    """Hexadecimal BLAKE2 hash of a checkpoint file's bytes.

    Raises:
        TwofoldError: there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise TwofoldError(f"there is no checkpoint file {path}; correct the path or copy the file there.")
    state = file.stat()
    return _file_hash(file.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, modified: int) -> str:  # size and time are there for the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextlib.contextmanager
def checkpoint_errors(path: str, model: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads ``path`` into one TwofoldError that names it."""
    try:
        yield
    except TwofoldError:
        raise
    except Exception as error:  # unpickling, zip, shape and key errors differ between libraries
        if "TorchScript" in str(error):
            reason = "it is a TorchScript archive, which can run code; name a state dict or .safetensors"
        else:
            reason = f"{type(error).__name__}: {summary(error)}"
        raise TwofoldError(
            f"the checkpoint {path} cannot be loaded into {model} ({reason}). "
            "Name the file that belongs to this model, or copy it again if it is damaged."
        ) from error


def read_checkpoint(path: str) -> dict[str, torch.Tensor]:
    """Tensors by name from a .safetensors file or a pickle of tensors alone (no code runs)."""
    from timm.models import load_state_dict

    state: dict[str, torch.Tensor] = load_state_dict(str(Path(path).expanduser()), weights_only=True)
    return state


def load_all(network: nn.Module, state: Mapping[str, torch.Tensor], ignored: tuple[str, ...]) -> None:
    """Load ``state`` with no tensor missing and none left over but those below the ``ignored`` modules.

    Raises:
        RuntimeError: a tensor is missing, left over, or has another shape.
    """
    heads = tuple(f"{name}." for name in ignored)
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith(heads)}, strict=True)


def fetch(name: str, url: str, remedy: str, get: Callable[[], T]) -> T:
    """Get weights from the local cache or the network, in seconds even where there is no network.

    Args:
        name: the weights as the user wrote them.
        url: any address on the server that holds them.
        remedy: what to do when they cannot be had, a sentence part.
        get: downloads, or finds the weights in the library's own cache.

    Raises:
        TwofoldError: the weights are not cached and cannot be fetched.
    """
    online = _reachable(url)
    try:
        with _offline_unless(online):
            return get()
    except Exception as error:  # every library and transport raises its own kind
        host = urllib.parse.urlsplit(url).hostname
        reason = f"{type(error).__name__}: {summary(error)}" if online else f"no connection to {host}"
        raise TwofoldError(
            f"the weights {name} are not on this machine and could not be fetched ({reason}). "
            f"On a connected machine {remedy}; {_NO_DOWNLOAD}"
        ) from error


def summary(error: BaseException) -> str:
    """An error's text on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or "no further text"


@contextlib.contextmanager
def _offline_unless(online: bool) -> Iterator[None]:
    """Keep the Hugging Face client from minutes of retries, and any socket from waiting for ever."""
    from huggingface_hub import constants

    before, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    constants.HF_HUB_OFFLINE = before or not online
    socket.setdefaulttimeout(_PROBE_SECONDS if not online else 60.0)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        socket.setdefaulttimeout(timeout)


@functools.lru_cache(maxsize=8)
def _reachable(url: str) -> bool:
    """Whether the server of ``url`` answers at all, within a few seconds.

    A thread, because looking up a host name knows no timeout.
    """
    answered: list[bool] = []
    probe = threading.Thread(target=lambda: answered.append(_answers(url)), daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS + 1)
    return answered == [True]


def _answers(url: str) -> bool:
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def hub_url(repository: str) -> str:
    """Address of a repository on the configured Hugging Face endpoint."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def identity(network: str, weights: str, version: str) -> dict[str, Any]:
    """Description of an architecture with its weights; equal descriptions give equal activations."""
    return {"network": network, "weights": weights, "version": version}
