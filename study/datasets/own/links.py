"""Files of an input in another folder: as hard links, which take no room, or as copies."""

import errno
import os
import shutil
from pathlib import Path

_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def put_file(source: str, target: Path, copy: bool) -> bool:
    """Puts a file at a new place, with the folders that it needs.

    Args:
        copy: its bytes, even where a link can be made.

    Returns:
        Whether it is a hard link.

    Raises:
        OSError: it cannot be read, or the new one cannot be written.
    """
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
    # A link to a link would be one to the name, which may go away.
    real = os.path.realpath(source) if os.path.islink(source) else source
    if not copy:
        try:
            os.link(real, target)
        except OSError as error:  # another disk, or one without links
            if error.errno not in _CANNOT_LINK:
                raise
        else:
            return True
    shutil.copyfile(real, target)
    return False
