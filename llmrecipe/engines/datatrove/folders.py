"""Folders of this machine's disk as datatrove takes them, whatever their paths hold."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datatrove.io import DataFolder
from fsspec.implementations.local import LocalFileSystem


class LocalFolder(DataFolder):
    """A folder whose path means itself.

    datatrove's own takes text before `::` or `://` in a path for a protocol, and looks for files by a pattern that
    begins with the path: in a project in `dd [v2]` it finds none, and goes on as if none had been written.
    """

    def __init__(self, path: Path) -> None:
        # fsspec remembers what a relative path once meant.
        super().__init__(str(path.absolute()), fs=LocalFileSystem())

    def list_files(
        self,
        subdirectory: str = "",
        recursive: bool = True,
        glob_pattern: str | None = None,
        include_directories: bool = False,
    ) -> list[str]:
        """Names of files below the folder, sorted; a pattern without signs is how they end."""
        if not glob_pattern:
            return super().list_files(subdirectory, recursive, None, include_directories)
        pattern = glob_pattern if glob.has_magic(glob_pattern) else f"*{glob_pattern}"
        root = Path(self.path)
        found: Iterable[Path] = (root / subdirectory).glob(pattern)
        return sorted(path.relative_to(root).as_posix() for path in found if path.is_file())

    def glob(self, path: str, **options: Any) -> Any:
        """Refused: see `list_files`."""
        raise NotImplementedError("use list_files, which keeps the folder's path out of the pattern")
