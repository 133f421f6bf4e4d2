"""``twostage cache``: the embeddings that estimators and predict keep."""

import click

from twostage.cli.output import plural, print_result


@click.group()
def cache() -> None:
    """See or empty the cache.

    The estimators, 'fit --images' and 'predict --images' keep embeddings there, and the openvino
    engine its converted networks. It is in the user's cache folder, or where TWOSTAGE_CACHE says.
    """


@cache.command()
def info() -> None:
    """Say where the cache is and what it holds."""
    from twostage.cache import cached_networks, cached_stores
    from twostage.folders import cache_folder

    stores, networks = cached_stores(), cached_networks()
    print_result(f"{cache_folder()}: {plural(len(stores), 'backbone')}.")
    for store in stores:
        held = "damaged" if store.n_images is None else plural(store.n_images, "image")
        print_result(f"  {store.name}: {held}, {store.size_bytes / 1e6:.1f} MB")
    for network in networks:
        print_result(f"  {network.name}: converted, {network.size_bytes / 1e6:.1f} MB")


@cache.command()
def clear() -> None:
    """Delete cached embeddings and converted networks; they are made again when needed."""
    from twostage.cache import clear_cache, clear_networks

    stores, networks = clear_cache(), clear_networks()
    size = sum(s.size_bytes for s in stores) + sum(n.size_bytes for n in networks)
    n_images = sum(store.n_images or 0 for store in stores)
    deleted = f"{plural(n_images, 'embedding')} and {plural(len(networks), 'converted network')}"
    print_result(f"Deleted {deleted}, {size / 1e6:.1f} MB.")
