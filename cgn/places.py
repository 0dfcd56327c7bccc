"""Files under a folder or under an address (`s3://`, `gs://`), by fsspec; one class for every storage.

Object stores are reached through pyarrow's file systems, which need no further client.
"""

import errno
import os
import re
from collections.abc import Collection
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from cgn import files

DAMAGE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.ELOOP)
"""Errors that lie in the file: a missing right, a folder in its place, a broken link. Others, such as a
connection that was lost, say nothing about the file.
"""


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
        """The content of a file; None if it is not there. Raises OSError, also for a broken link."""
        try:
            return bytes(self._system.cat_file(f"{self.root}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            self._check_link(name)
            return None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there. Raises OSError, also for what is no file."""
        try:
            facts = self._system.info(f"{self.root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            facts = None
        if facts is None or facts["type"] == "link":
            self._check_link(name)
            return None
        if facts["type"] != "file":
            raise OSError(f"{name} is a {facts['type']} and no file")
        return int(facts["size"])

    def write(self, name: str, content: bytes) -> None:
        """A file, in place of an older one. Raises OSError."""
        parent = f"{self.root}/{name}".rpartition("/")[0]
        self._system.makedirs(parent, exist_ok=True)
        if self.folder is not None:
            files.write(self.folder / name, content)
        else:  # an object store writes an object whole or not at all
            self._system.pipe_file(f"{self.root}/{name}", content)

    def _check_link(self, name: str) -> None:
        """Raise OSError for a link without a file."""
        if self.folder is not None and (self.folder / name).is_symlink():
            raise OSError(errno.ENOENT, "a link that leads nowhere")

    def remove(self, name: str) -> None:
        """Remove a file if it is there. Raises OSError."""
        if self._system.isfile(f"{self.root}/{name}"):
            self._system.rm_file(f"{self.root}/{name}")

    def remove_drafts(self, folder: str) -> None:
        """Remove what killed writers left unfinished in a folder; object stores have no such files."""
        if self.folder is not None:
            for path in (self.folder / folder).glob(".*.tmp"):
                files.remove(path)

    def check_writable(self, folder: str, names: Collection[str]) -> None:
        """Raise OSError if files of these names cannot be written to a folder, as far as is known before.

        Object stores are not asked.
        """
        if self.folder is None:
            return
        parent = self.folder / folder
        if not parent.exists():
            if parent.is_symlink():
                raise OSError(errno.ENOENT, f"{parent} is a link that leads nowhere")
            return
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{parent} is not a folder")
        if not os.access(parent, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"no right to read and write {parent}")
        for path in (parent / name for name in names):
            if path.is_dir() and not path.is_symlink():
                raise IsADirectoryError(errno.EISDIR, f"{path} is a folder")

    def entries(self, folder: str) -> list[str]:
        """Names of all that a folder holds, hidden names excepted: files, folders, also broken links.

        Empty if the folder is not there. Raises OSError.
        """
        return [name for name, _ in self._list(folder)]

    def names(self, folder: str = "") -> list[str]:
        """Names of the files of a folder, hidden ones excepted; empty if it is not there. Raises OSError."""
        return [name for name, is_folder in self._list(folder) if is_folder is False]

    def folders(self) -> list[str]:
        """Names of the folders. Raises OSError."""
        return [name for name, is_folder in self._list("") if is_folder]

    def exists(self) -> bool:
        """Whether the folder itself is there. Raises OSError."""
        return bool(self._system.isdir(self.root))

    def _list(self, folder: str) -> list[tuple[str, bool | None]]:
        """Names in a folder, and whether each is a folder; None for what is neither file nor folder."""
        path = f"{self.root}/{folder}".rstrip("/")
        entries: list[tuple[str, bool | None]]
        if self.folder is None:  # by pyarrow: fsspec raises for a bucket that does not exist yet
            selector = pa.fs.FileSelector(path, allow_not_found=True)
            kinds = {pa.fs.FileType.File: False, pa.fs.FileType.Directory: True}
            infos = self._system.fs.get_file_info(selector)
            entries = [(info.base_name, kinds.get(info.type)) for info in infos]
        else:  # by the operating system: fsspec leaves out links
            try:
                with os.scandir(path) as scanned:
                    entries = [(entry.name, _is_folder(entry)) for entry in scanned]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted((entry for entry in entries if entry[0] and entry[0][0] != "."), key=itemgetter(0))

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.address,)


def _is_folder(entry: "os.DirEntry[str]") -> bool | None:
    """None for what is neither file nor folder: a broken link, a socket."""
    try:
        return entry.is_dir() or (False if entry.is_file() else None)
    except OSError:  # a link to itself
        return None


def is_remote(address: str) -> bool:
    """Whether this is an address of an object store and no folder."""
    return "://" in address and not address.startswith("file://")


def shown(address: str) -> str:
    """An address as it may be printed: without a key or secret that it may carry."""
    return re.sub(r"//[^/@]*@", "//", address.partition("?")[0]) if "://" in address else address
