"""Memory that processes of one machine share: the first one makes it, and the system frees it with the last one.

It is a file without a name (Linux's memfd): no kill leaves it behind, and `/dev/shm`, often small, does not bound it.
Who has it open is listed in a small file, as `[process, number of the open file]`, where others find it.
"""

import json
import os
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hlrp.files import write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SharedBytes:
    """Shared memory, mapped into this process; it is kept open for others to find as long as this object lives.

    Args:
        file: The open memfd, which is this object's from now on.
        nbytes: Its size.
    """

    def __init__(self, file: int, nbytes: int) -> None:
        from torch import UntypedStorage, empty, uint8

        self._close = weakref.finalize(self, os.close, file)
        self.file = file
        # Python's own mmap would keep another file open.
        storage: Any = UntypedStorage.from_file(f"/proc/self/fd/{file}", shared=True, nbytes=nbytes)
        self.content: NDArray[np.uint8] = empty(0, dtype=uint8).set_(storage).numpy()

    @classmethod
    def find(cls, record: Path, name: str, nbytes: int) -> Self | None:
        """The memory that a living process has; None: there is none.

        Args:
            record: The file in which they are listed.
            name: The memory's name.
            nbytes: Its size.
        """
        for process, number in _listed(record):
            place = Path(f"/proc/{process}/fd/{number}")
            with suppress(OSError):  # it has ended, or is another user's
                # A number that another process was given since leads to something else.
                if str(place.readlink()).startswith(f"/memfd:{name} "):
                    return cls(os.open(place, os.O_RDWR | os.O_CLOEXEC), nbytes)
        return None

    @classmethod
    def find_or_make(cls, record: Path, name: str, nbytes: int) -> Self | None:
        """`find`, or else new memory, all zeros, which takes up room where it is written; others find this process.

        Only one process at a time may call it for a ``record``.

        Returns:
            None where the system has no such memory.
        """
        found = cls.find(record, name, nbytes)
        if found is None:
            try:
                file = os.memfd_create(name, os.MFD_CLOEXEC)
            except (OSError, AttributeError):
                return None
            os.ftruncate(file, nbytes)
            found = cls(file, nbytes)
        alive = [[process, number] for process, number in _listed(record) if Path(f"/proc/{process}").exists()]
        write_json(record, [*alive, [os.getpid(), found.file]])
        return found


def _listed(record: Path) -> list[tuple[int, int]]:
    try:
        return [(int(process), int(number)) for process, number in json.loads(record.read_text(encoding="utf8"))]
    except (OSError, ValueError, TypeError):
        return []
