"""Files from the web, kept only if they are the ones that were meant."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag, urlparse

from lit_gpt_kit.data.progress import show_progress
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.files import says_when_full

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30


def split_url(source: str) -> tuple[str, str]:
    """The address and the sha256 of `https://host/file.txt#sha256=<64 hex digits>`.

    Raises:
        InputError: the sha256 is missing or malformed.
    """
    url, fragment = urldefrag(source)
    name, _, digest = fragment.partition("=")
    if name != "sha256" or len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        raise InputError(
            f"{source} does not say which content is meant; append #sha256=<its 64 hex digits> "
            "(sha256sum prints them)"
        )
    return url, digest.lower()


def download(source: str, folder: Path) -> Path:
    """The file behind a URL with its sha256, downloaded once into `folder`.

    Raises:
        InputError: the server cannot be reached, or sends something else.
    """
    url, expected = split_url(source)
    name = PurePosixPath(urlparse(url).path).name or "download"
    target = folder / f"{expected[:16]}-{name}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{target.name}.{os.getpid()}"
    try:
        with says_when_full(folder):
            digest = _fetch(url, partial)
        if digest != expected:
            raise InputError(
                f"{url} sent other content than was meant: its sha256 is {digest}, expected "
                f"{expected}"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _fetch(url: str, target: Path) -> str:
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,
            target.open("wb") as file,
            show_progress(f"downloading {url}", response.length) as advance,
        ):
            while chunk := response.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
                advance(len(chunk))
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{url} cannot be downloaded ({reason}); download it elsewhere and name the file"
        ) from None
    return digest.hexdigest()
