"""Files from the internet: downloaded once, verified by hash at every use."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from byhand.errors import UserError


@dataclass(frozen=True)
class Download:
    """A file on the internet, with its length in bytes and its SHA-256.

    Attributes:
        title: what messages call it.
        filename: its name in the cache folder.
    """

    title: str
    url: str
    sha256: str
    size: int
    filename: str

    def path(self) -> Path:
        """Where the downloaded file is kept: in the user's cache folder, or for a user without a
        home in the folder for temporary files.
        """
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("byhand", appauthor=False))
        if not folder.is_absolute():  # "~" could not be expanded
            folder = Path(tempfile.gettempdir()) / "byhand"
        return folder / self.filename

    def fetch(self, otherwise: str, timeout: float = 30.0) -> Path:
        """The path of the verified file, downloaded if it is missing or altered.

        UserError if that fails; its message ends with `otherwise`, which says what the user can do
        instead. `timeout` is in seconds, for each wait for the server.
        """
        import http.client

        path = self.path()
        try:
            if path.exists() and self._matches(path.read_bytes()):
                return path
            print(f"downloading {self.title} from {self.url}", file=sys.stderr)
            data = self._download(timeout)
        # TimeoutError and URLError are OSErrors; an answer that breaks off is an HTTPException.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UserError(
                f"cannot download {self.title} from {self.url} ({_reason(error)}): {otherwise}, "
                f"or put the file at {path} yourself"
            ) from None
        if not self._matches(data):
            raise UserError(
                f"what {self.url} sent is not {self.title} ({len(data)} bytes, "
                f"SHA-256 {hashlib.sha256(data).hexdigest()}) and was not kept: {otherwise}"
            )
        try:
            _write(path, data)
        except OSError as error:
            raise UserError(
                f"cannot keep {self.title} at {path} ({error.strerror}): {otherwise}"
            ) from None
        return path

    def _matches(self, data: bytes) -> bool:
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256

    def _download(self, timeout: float) -> bytes:
        # Imported here: it takes longer than the rest of byhand, and most runs download nothing.
        import urllib.request

        request = urllib.request.Request(self.url, headers={"User-Agent": "byhand"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            # One byte more than expected is enough to see that it is another file.
            data = answer.read(self.size + 1)
        if len(data) < self.size:
            raise OSError(f"the transfer ended after {len(data)} of {self.size} bytes")
        return data


def _reason(error: Exception) -> str:
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return " ".join(str(error).split()) or type(error).__name__


def _write(path: Path, data: bytes) -> None:
    # Written under another name first: an incomplete file must not have the name of a whole one.
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
