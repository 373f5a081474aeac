"""What a machine runs out of, memory and disk, told in one message."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.errors import RunError, ToolkitError


@contextmanager
def machine_limits(root: Path) -> Iterator[None]:
    """Around work whose results are kept in `root`.

    Raises:
        RunError: memory or disk ran out, however Python, torch or the file system said it.
    """
    try:
        yield
    except ToolkitError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory; finished work is kept in {root}, run the same command again, without `--fresh`, to go on. "
            "To need less, lower `batch_tokens`, `decoding.max_new_tokens`, or a tuning's `micro_batch_tokens`, for "
            "example: batch_tokens=1024"
        ) from error
    except OSError as error:
        if not _is_out_of_space(error):
            raise
        place = f" ({error.filename})" if error.filename else ""
        raise RunError(
            f"no space is left on the disk{place}; finished work is kept in {root}, run the same command again, "
            "without `--fresh`, to go on. Free some space, or move the run with `--out DIR` and the cache with the "
            "variable TOOLKIT_CACHE"
        ) from error


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """torch says it in words, on the CPU and on the GPU alike."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _is_out_of_space(error: OSError) -> bool:
    """shutil gathers what went wrong with many files into an error without a number."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "no space left" in str(error).lower()
