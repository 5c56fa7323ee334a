"""A file on its way into a volume."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat

from atoll.errors import InvalidInput, PathExists
from atoll.volumes.model import Attributes, Entry
from atoll.volumes.tree import Tree, clean_path, path_errors

FILE_MODE = 0o666


class Draft:
    """A file that has no name until it is whole, so nobody ever sees half of it.

    What had the name before is there until then; a symlink is replaced, not followed. All methods
    block.
    """

    def __init__(
        self, tree: Tree, path: str, wanted: Attributes, *, overwrite: bool, parents: bool
    ) -> None:
        """Raises `PathNotFound`, `PathExists`, `InvalidInput`, `NoSpace`."""
        self.path = clean_path(path)
        self._tree = tree
        self._wanted = wanted
        self._overwrite = overwrite
        tree.check_owner(wanted)
        if parents:
            tree.make_parents(self.path, wanted)
        with path_errors(self.path):
            if self.path == "/":
                raise InvalidInput("the root of a volume is not a file")
            with tree.parent(self.path) as (parent, name):
                self._inherit(parent, name)
                self._descriptor = os.open(
                    ".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=parent
                )

    def _inherit(self, parent: int, name: str) -> None:
        """Look at what has the name: a file that is overwritten keeps its owner and mode."""
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(info.st_mode):
            raise InvalidInput(f"path {self.path!r} is a directory")
        if not self._overwrite:
            raise PathExists(f"path {self.path!r} exists already")
        if stat.S_ISREG(info.st_mode):
            before, wanted = self._tree.describe(self.path), self._wanted
            self._wanted = Attributes(
                uid=before.uid if wanted.uid is None else wanted.uid,
                gid=before.gid if wanted.gid is None else wanted.gid,
                mode=before.mode if wanted.mode is None else wanted.mode,
            )

    def write(self, data: bytes) -> None:
        """Append. Raises `NoSpace`."""
        view = memoryview(data)
        with path_errors(self.path):
            while view:
                view = view[os.write(self._descriptor, view) :]

    def finish(self) -> Entry:
        """Give the file its name. It is on the disk for good when this returns.

        Raises `PathExists`, `PathNotFound` when its directory has gone, `InvalidInput`, `NoSpace`.
        """
        with path_errors(self.path):
            self._tree.apply(self._descriptor, self._wanted, FILE_MODE)
            with self._tree.parent(self.path) as (parent, name):
                try:
                    self._link(parent, name)
                except FileExistsError:
                    if not self._overwrite:
                        raise
                    self._replace(parent, name)
            os.fsync(self._descriptor)
            return self._tree.describe_open(self.path, self._descriptor)

    def _link(self, parent: int, name: str) -> None:
        # What has no name can be linked through /proc only.
        os.link(f"/proc/self/fd/{self._descriptor}", name, dst_dir_fd=parent, follow_symlinks=True)

    def _replace(self, parent: int, name: str) -> None:
        aside = f".{secrets.token_hex(16)}"
        self._link(parent, aside)
        try:
            os.rename(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(aside, dir_fd=parent)
            if isinstance(error, IsADirectoryError):
                raise InvalidInput(f"path {self.path!r} is a directory") from None
            raise

    def close(self) -> None:
        """Let go. What was not finished is gone."""
        os.close(self._descriptor)
