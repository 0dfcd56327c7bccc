"""Files under a folder or under an address (`s3://`, `gs://`), by fsspec; one class for every storage.

Object stores are reached through pyarrow's file systems, which need no further client.
"""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from cgn import files


class Place:
    """Files by relative name, at most one folder deep. A write is all or nothing.

    Pickled by its address: a worker that receives a place opens it again.
    """

    def __init__(self, address: str | Path) -> None:
        """Open it; nothing is read or written.

        Args:
            address: a folder, `file://`, or an address that pyarrow knows.

        Raises:
            OSError: no such file system, or it cannot be reached.
        """
        self.address = str(address)
        if is_remote(self.address):
            try:
                system, root = pa.fs.FileSystem.from_uri(self.address)
            except (pa.ArrowException, ValueError) as error:
                raise OSError(str(error)) from error
            self._system, self.root = ArrowFSWrapper(system), root.rstrip("/")
        else:
            self._system = LocalFileSystem()
            self.root = str(Path(self.address.removeprefix("file://")).absolute())

    @property
    def folder(self) -> Path | None:
        """The local folder; None for an address."""
        return None if is_remote(self.address) else Path(self.root)

    @property
    def shown(self) -> str:
        """The address as it may be printed: without a key or secret that it may carry."""
        return shown(self.address)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it is not there. Raises OSError."""
        try:
            return bytes(self._system.cat_file(f"{self.root}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """A file, in place of an older one. Raises OSError."""
        parent = f"{self.root}/{name}".rpartition("/")[0]
        self._system.makedirs(parent, exist_ok=True)
        if self.folder is not None:
            files.write(self.folder / name, content)
        else:  # an object store writes an object whole or not at all
            self._system.pipe_file(f"{self.root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file if it is there. Raises OSError."""
        if self._system.isfile(f"{self.root}/{name}"):
            self._system.rm_file(f"{self.root}/{name}")

    def remove_drafts(self, folder: str) -> None:
        """Remove what killed writers left unfinished in a folder; object stores have no such files."""
        if self.folder is not None:
            for path in (self.folder / folder).glob(".*.tmp"):
                path.unlink(missing_ok=True)

    def names(self, folder: str = "") -> list[str]:
        """Names of the files of a folder, hidden ones excepted; empty if it is not there. Raises OSError."""
        return self._list(folder, "file")

    def folders(self) -> list[str]:
        """Names of the folders. Raises OSError."""
        return self._list("", "directory")

    def exists(self) -> bool:
        """Whether the folder itself is there. Raises OSError."""
        return bool(self._system.isdir(self.root))

    def _list(self, folder: str, kind: str) -> list[str]:
        path = f"{self.root}/{folder}".rstrip("/")
        if self.folder is None:  # by pyarrow: fsspec raises for a bucket that does not exist yet
            selector = pa.fs.FileSelector(path, allow_not_found=True)
            wanted = pa.fs.FileType.File if kind == "file" else pa.fs.FileType.Directory
            names = [
                entry.base_name for entry in self._system.fs.get_file_info(selector) if entry.type == wanted
            ]
        else:
            try:
                entries = self._system.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            names = [Path(entry["name"]).name for entry in entries if entry["type"] == kind]
        return sorted(name for name in names if name and not name.startswith("."))

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.address,)


def is_remote(address: str) -> bool:
    """Whether this is an address of an object store and no folder."""
    return "://" in address and not address.startswith("file://")


def shown(address: str) -> str:
    """An address as it may be printed: without a key or secret that it may carry."""
    return re.sub(r"//[^/@]*@", "//", address.partition("?")[0]) if "://" in address else address
