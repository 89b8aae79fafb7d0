"""Fetching public files into the cache, with their checksum; nothing is left behind when that fails."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError

_TIMEOUT = 30.0  # seconds without a byte


def cache_folder() -> Path:
    """Where downloads are kept: the user's cache folder of the system."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("robustq"))


def fetch(mirrors: Sequence[str], file: str, checksum: str, folder: Path) -> Path:
    """`file` from the first mirror that has it with this checksum ("md5:..."), as folder/file.

    DataError with one reason for each mirror.
    """
    import pooch

    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.WARNING)  # pooch announces itself on stderr
    reasons = []
    try:
        for mirror in mirrors:
            loader: Any = pooch.HTTPDownloader(timeout=_TIMEOUT)  # pooch's own protocol does not admit its class
            try:
                return Path(pooch.retrieve(f"{mirror}{file}", checksum, file, folder, downloader=loader))
            except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is a ValueError
                reasons.append(_reason(f"{mirror}{file}", error))
    finally:
        log.setLevel(level)
    raise DataError("; ".join(reasons))


def _reason(url: str, error: Exception) -> str:
    if isinstance(error, ValueError) and "hash" in str(error):
        return f"{url} has the wrong checksum"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"{url} answered {status}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename} cannot be written ({error.strerror})"
    return f"{url} cannot be reached ({type(error).__name__})"
