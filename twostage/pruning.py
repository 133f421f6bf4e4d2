"""Which images of a store are not there any more."""

import os
import posixpath
from pathlib import Path, PurePosixPath

from twostage.contents import IMAGE, kind_of
from twostage.errors import StoreError, UsageError
from twostage.images.references import TAR_ENDINGS, check_folder, reference_to
from twostage.remote import is_url
from twostage.store.store import EmbeddingStore

_HOLDING = (*TAR_ENDINGS, ".parquet")  # files with images in them


def gone_images(store: EmbeddingStore, images: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of a store's images whose files are gone.

    Parameters
    ----------
    store : EmbeddingStore
        What holds the names.
    images : path-like, optional
        The folder that they are relative to. A store of absolute paths needs none.

    Returns
    -------
    list of str
        What may be there, on a disk that does not answer, within a tar or behind a URL, is not
        among them.

    Raises
    ------
    UsageError
        If the folder does not exist, or is needed and not given.
    StoreError
        If none of the images is there: rather another folder than all images gone.

    Examples
    --------
    >>> from twostage import EmbeddingStore
    >>> from twostage.pruning import gone_images
    >>> store = EmbeddingStore("store")  # doctest: +SKIP
    >>> store.prune(gone_images(store, "photos"))  # doctest: +SKIP
    3
    """
    kind = kind_of(store.spec)
    if kind != IMAGE:
        raise UsageError(
            f"The store '{store.path}' holds {kind}s, which are named by what they are and have no "
            f"files that could be gone. To hold fewer, extract those of a table into a new store."
        )
    names = store.index()["image"].to_pylist()
    if images is not None:
        check_folder(Path(images))
    elif not all(posixpath.isabs(name) or is_url(name) for name in names):
        raise UsageError(
            f"The store '{store.path}' names its images relative to a folder. Say where that is, "
            "with --images DIR."
        )
    gone = [name for name in names if _is_gone(Path(images or os.curdir), name)]
    if names and len(gone) == len(names):
        raise StoreError(
            f"None of the {len(names):,} images of the store '{store.path}' is there; first: "
            f"'{Path(images or os.curdir) / names[0]}'. Give the folder that they were extracted "
            "from, and see that its disk is there. To drop all rows, delete the store."
        )
    return gone


def _is_gone(folder: Path, name: str) -> bool:
    if is_url(name):
        return False
    reference = reference_to(folder, name)
    if reference.size_bytes is not None:
        return False
    try:
        os.stat(reference.path)
    except FileNotFoundError:
        return True
    except NotADirectoryError:  # a file where a folder was, or one that holds images
        return not any(part.lower().endswith(_HOLDING) for part in PurePosixPath(name).parts[:-1])
    except (OSError, ValueError):  # no right to look, or a disk that does not answer
        return False
    return False
