"""``twostage cache``: the embeddings that estimators and predict keep."""

import click

from twostage.cli.output import plural, print_result


@click.group()
def cache() -> None:
    """See or empty the cache.

    The estimators, 'fit --images' and 'predict --images' keep embeddings there, 'fit --finetune'
    the backbones that it tuned, and the openvino engine its converted networks. It is in the user's
    cache folder, or where TWOSTAGE_CACHE says.
    """


@cache.command()
def info() -> None:
    """Say where the cache is and what it holds."""
    from twostage.cache import cached_backbones, cached_networks, cached_stores
    from twostage.folders import cache_folder

    stores, networks = cached_stores(), cached_networks()
    print_result(f"{cache_folder()}: {plural(len(stores), 'backbone')}.")
    for store in stores:
        held = "damaged" if store.n_images is None else plural(store.n_images, "image")
        print_result(f"  {store.name}: {held}, {store.size_bytes / 1e6:.1f} MB")
    for network in networks:
        print_result(f"  {network.name}: converted, {network.size_bytes / 1e6:.1f} MB")
    for backbone in cached_backbones():
        print_result(f"  {backbone.name}: tuned by a fit, {backbone.size_bytes / 1e6:.1f} MB")


@cache.command()
def clear() -> None:
    """Delete cached embeddings and converted and tuned networks; they are made again when needed.

    A fitted estimator that was not saved as a folder needs the backbones that were tuned for it.
    """
    from twostage.cache import clear_backbones, clear_cache, clear_networks

    stores, networks, tuned = clear_cache(), clear_networks(), clear_backbones()
    size = sum(s.size_bytes for s in stores) + sum(n.size_bytes for n in [*networks, *tuned])
    n_images = sum(store.n_images or 0 for store in stores)
    deleted = f"{plural(n_images, 'embedding')} and {plural(len(networks), 'converted network')}"
    if tuned:
        deleted += f" and {plural(len(tuned), 'tuned backbone')}"
    print_result(f"Deleted {deleted}, {size / 1e6:.1f} MB.")
