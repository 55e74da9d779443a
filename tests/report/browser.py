"""A real browser without a window."""

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # Whatever a page asks for by name is not found, so that it could not be fetched unseen.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=8000",
)


def find_browser() -> str:
    """The browser's program; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(NAMES)}")
    return found


def open_page(page: Path, folder: Path, *flags: str) -> str:
    """Open a page, and return what stands on stdout.

    Args:
        page: the file.
        folder: for the browser's profile.
        flags: what to do with it: `--dump-dom`, or `--screenshot=FILE` with `--window-size=W,H`.
    """
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [find_browser(), *FLAGS, profile, *flags, page.absolute().as_uri()],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout
