"""``twostage cache``: the embeddings that estimators and predict keep."""

import click

from twostage.cli.output import plural, print_result


@click.group()
def cache() -> None:
    """See or empty the cache of embeddings.

    The estimators, 'fit --images' and 'predict --images' keep embeddings there. It is in the
    user's cache folder, or where TWOSTAGE_CACHE says.
    """


@cache.command()
def info() -> None:
    """Say where the cache is and what it holds."""
    from twostage.cache import cached_stores
    from twostage.folders import cache_folder

    stores = cached_stores()
    print_result(f"{cache_folder()}: {plural(len(stores), 'backbone')}.")
    for store in stores:
        held = "damaged" if store.n_images is None else plural(store.n_images, "image")
        print_result(f"  {store.name}: {held}, {store.size_bytes / 1e6:.1f} MB")


@cache.command()
def clear() -> None:
    """Delete all cached embeddings; they are computed again when needed."""
    from twostage.cache import clear_cache

    cleared = clear_cache()
    size = sum(store.size_bytes for store in cleared) / 1e6
    n_images = sum(store.n_images or 0 for store in cleared)
    print_result(f"Deleted {plural(n_images, 'embedding')}, {size:.1f} MB.")
