"""``twostage predict``: a model and a table into predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.fit import listed_images
from twostage.cli.options import (
    IMAGES,
    PLACES,
    STORE,
    executor_options,
    json_option,
    long_option,
    quiet_option,
    run_options,
    slower_option,
)
from twostage.cli.output import UNREADABLE, plural, print_json, print_result, say, told
from twostage.cli.sequences import join_to_predict
from twostage.contents import IMAGE
from twostage.errors import StoreError, UsageError, listed

if TYPE_CHECKING:
    import pandas as pd

    from twostage.fitted import Blocks
    from twostage.seen import SeenRows
    from twostage.staged import AnyModel
    from twostage.store.store import EmbeddingStore


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--table",
    type=click.Path(exists=True),
    help="CSV or Parquet table with the columns of the training; or the folder of a table in many "
    "Parquet files.",
)
@click.option("--images", type=IMAGES, help=f"The table's images: {PLACES}.")
@click.option("--store", type=STORE, help="Instead of --images: a store that holds them.")
@long_option
@slower_option
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="PREDICTIONS",
    help="File to write: .parquet, or else CSV. For a table in many files, a folder.",
)
@run_options
@executor_options
@quiet_option
@json_option
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    model: str,
    table: str | None,
    images: str | None,
    store: str | None,
    sequences: str | None,
    slower: str | None,
    output: str,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict with a MODEL for each row of a table, in its order.

    The result has a row per row of the table: the image columns and the group if given,
    prediction, proba_CLASS for each class, n_images, error. Embeddings are cached. A model trained
    on a folder per class needs no table: it predicts for all images. Of a table in many files, each
    is predicted by itself, with --executor ray by many workers; its images must be in a --store.
    """
    if table is not None and Path(table).is_dir():
        _predict_partitions(ctx, model, table, images, store, output, quiet, as_json, options)
        return
    from twostage.model import read_model
    from twostage.sources import check_usable
    from twostage.table.files import check_parent, write_table

    check_parent(output)
    if table is not None and Path(output).resolve() == Path(table).resolve():
        raise UsageError(f"'{output}' is the table itself. Give another file for the predictions.")
    fitted = read_model(model)
    check_source(fitted, model, images, store)
    frame = _read_rows(fitted, table, images, store)
    frame = join_to_predict(frame, fitted.settings, sequences, slower, quiet)
    seen: Any = fitted.look(
        lambda spec: embed_rows(fitted, spec, frame, images, store, quiet, options)[0]
    )
    check_usable(fitted.blocks_in(seen))
    predictions = fitted.prediction_table(frame, seen)
    write_table(predictions, output)
    n_errors = int(predictions["error"].notna().sum())
    if as_json:
        print_json({"output": output, "n_rows": len(predictions), "n_errors": n_errors})
    else:
        print_result(f"{output}: {plural(len(predictions), 'prediction')}.")
    if not quiet:
        _tell_unused(fitted, frame)
    if n_errors:
        first = predictions["error"].dropna().iloc[0]
        what = fitted.settings.embeds
        say(f"{plural(n_errors, 'row')} with an unusable {what}; first: {first}.")
        ctx.exit(UNREADABLE)


def _predict_partitions(
    ctx: click.Context,
    model: str,
    table: str,
    images: str | None,
    store: str | None,
    output: str,
    quiet: bool,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Predict for a table in many files."""
    from twostage.extraction import ExtractionOptions
    from twostage.model import read_model
    from twostage.partitions import find_partitions, predict_partitions

    fitted = read_model(model)
    if images:
        raise UsageError(
            "A table in many files goes with --store: embed its images first, with 'twostage "
            "extract IMAGES -o STORE', and give that instead of --images."
        )
    check_source(fitted, model, images, store)
    partitions = find_partitions(Path(table), Path(output))
    how = ExtractionOptions(**options)
    if store is not None:
        check_store(fitted, store)
    with told(quiet):
        records = predict_partitions(
            model, store, partitions, how.cluster if how.executor == "ray" else None
        )
    n_rows, n_errors = (sum(getattr(r, name) for r in records) for name in ("n_rows", "n_errors"))
    if as_json:
        print_json({"output": output, "n_rows": n_rows, "n_errors": n_errors})
    else:
        in_files = plural(len(records), "file")
        print_result(f"{output}: {plural(n_rows, 'prediction')} in {in_files}.")
    if n_errors:
        first = next(record.first_error for record in records if record.first_error)
        say(f"{plural(n_errors, 'row')} with an unusable image; first: {first}.")
        ctx.exit(UNREADABLE)


def check_source(fitted: "AnyModel", model: str, images: str | None, store: str | None) -> None:
    """Check where the images are to come from.

    Raises
    ------
    UsageError
        If it is not said, said twice, or a store for a model of several backbones.
    """
    if images and store:
        raise UsageError("Give --images or --store, not both.")
    kind = fitted.settings.embeds
    if images and kind != IMAGE:
        raise UsageError(f"The model looks at {kind}s, which are in the table: leave --images out.")
    if fitted.dims and not images and not store and kind == IMAGE:
        raise UsageError("The model looks at images: give --images with their folder, or --store.")
    if store is not None and len(fitted.backbones) > 1:
        raise UsageError(
            f"Model '{model}' has {len(fitted.backbones)} backbones, and a store holds embeddings "
            "by one. Give --images with the folder of the images instead of --store."
        )


def _read_rows(
    fitted: "AnyModel", table: str | None, images: str | None, store: str | None
) -> "pd.DataFrame":
    import pandas as pd

    from twostage.table.files import read_table

    if table is not None:
        return read_table(table)
    if fitted.table_columns or len(fitted.dims) != 1 or fitted.settings.embeds != IMAGE:
        raise UsageError("The model needs a table: give --table.")
    return pd.DataFrame({next(iter(fitted.dims)): listed_images(store, images)})


def embed_rows(
    fitted: "AnyModel",
    backbone: dict[str, Any],
    frame: "pd.DataFrame",
    images: str | None,
    store: str | None,
    quiet: bool,
    options: dict[str, Any],
) -> "tuple[Blocks, SeenRows]":
    """Return the embeddings of rows by a backbone of the model, and what that was trained on."""
    from twostage.encoders.spec import read_spec
    from twostage.extraction import ExtractionOptions
    from twostage.sources import blocks_from_files, blocks_from_store

    columns = list(fitted.dims)
    spec = read_spec(backbone, "the model")
    if store is not None:
        held = check_store(fitted, store)
        blocks, notes = blocks_from_store(
            frame, columns, held, must_match=False, pooling=fitted.settings.image_pooling
        )
        for note in notes:
            say(note)
        return blocks, held.seen
    with told(quiet, spec.kind) as progress:
        how = ExtractionOptions(**options, progress=progress)
        pooling = fitted.settings.image_pooling
        blocks, cached = blocks_from_files(frame, columns, str(images), spec, how, pooling=pooling)
    return blocks, cached.seen


def check_store(fitted: "AnyModel", path: str) -> "EmbeddingStore":
    """Open a store for a model; raise StoreError if it is another backbone's."""
    from twostage.encoders.spec import read_spec
    from twostage.store.store import EmbeddingStore

    held = EmbeddingStore(path)
    for spec in fitted.backbones:
        _check_backbone(read_spec(spec, "the model"), read_spec(held.spec, path), path)
    return held


def _check_backbone(wanted: Any, found: Any, store: str) -> None:
    differences = wanted.differences(found)
    if differences:
        raise StoreError(
            f"Store '{store}' was made by another backbone than the model: "
            f"{'; '.join(differences)}. Give a store made by the model's backbone, or "
            f"{'--images' if wanted.kind == IMAGE else 'none'}."
        )
    if wanted.key != found.key:
        made, trained = (
            f"{spec.variant}, kept as {spec.storage_dtype}" for spec in (found, wanted)
        )
        say(
            f"The store's embeddings were made by {made}; the model was trained on {trained}: they "
            "differ a little."
        )


def _tell_unused(fitted: "AnyModel", frame: "pd.DataFrame") -> None:
    known = {column.name for column in fitted.columns} | set(fitted.settings.reserved())
    unknown = [str(name) for name in frame.columns if str(name) not in known]
    if unknown:
        say(f"Columns that the model does not know were left out: {listed(unknown)}.")
