"""Commands about data: caches, the symmetric prior, pictures of pairs, phantom films, pseudonyms."""

import inspect
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cgn.errors import ConfigError, DataError
from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    Data,
    Edits,
    StoreAt,
    announce,
    edits_of,
    open_data,
)
from cgn_platform.store.layout import Store


class _Datasets(typer.core.TyperGroup):
    """`cgn cache DATASET`: one command for each module of `cgn.data.datasets`.

    Options are read from the module's pydantic model, so that a dataset is one file. typer has no command of
    a model; hence the function signatures made here.
    """

    def list_commands(self, _ctx: Any) -> list[str]:
        from cgn.data import datasets

        return datasets.names()

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        from cgn.data import datasets

        if cmd_name not in datasets.names():
            raise ConfigError(f"no dataset {cmd_name!r}: take one of {', '.join(datasets.names())}")
        one = typer.Typer(add_completion=False, rich_markup_mode="rich")
        one.command(cmd_name)(self.command_of(cmd_name))
        return typer.main.get_command(one)

    def command_of(self, dataset: str) -> Callable[..., None]:
        return _cache_command(dataset)


class _Bilateral(_Datasets):
    """`cgn bilateral DATASET`: the datasets with pairs that are known to be healthy."""

    def list_commands(self, _ctx: Any) -> list[str]:
        from cgn.measure import with_healthy_pairs

        return with_healthy_pairs()

    def command_of(self, dataset: str) -> Callable[..., None]:
        return _bilateral_command(dataset)


caches = typer.Typer(
    cls=_Datasets,
    no_args_is_help=True,
    help="""Prepare the pairs of a dataset once: crop, orient, resize, divide into folds. Prints the cache's
    folder.

      cgn cache mias --raw DIR --cohort mass

      cgn cache phantom --pairs 300 --seed 1""",
)
app.add_typer(caches, name="cache")


bilateral = typer.Typer(
    cls=_Bilateral,
    no_args_is_help=True,
    help="""Test the symmetric prior (Sec. IV-D): do the two sides differ more if one has a lesion?

      cgn bilateral mias --raw DIR

      cgn bilateral phantom --pairs 300 --size 96""",
)
app.add_typer(bilateral, name="bilateral")


@bilateral.callback()
@caches.callback()
def _group() -> None:
    pass


@app.command()
def look(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="PNG", help="The picture to write.")] = Path("pairs.png"),
    pairs: Annotated[int, typer.Option(min=1, help="Number of pairs, spread over the cache.")] = 12,
) -> None:
    """Draw some pairs of a cache with the boxes of their lesions. Look at them before you train.

    Example: cgn look --data runs/cache/mias-all-... pairs.png
    """
    from cgn.data.contact_sheet import write_contact_sheet

    cached, _ = open_data(data)
    count = min(pairs, len(cached))
    write_contact_sheet(cached, [i * len(cached) // count for i in range(count)], out)
    healthy = f"; the cache has {len(cached.healthy)} healthy films too" if cached.healthy else ""
    typer.echo(f"{count} of {len(cached)} pairs in {out}{healthy}")


@app.command()
def films(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    pairs: Annotated[int, typer.Option(min=1, help="Number of women, two films each.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the drawing; cached phantoms have 0 by default.")] = 7,
    size: Annotated[
        int, typer.Option(min=32, help="Pixels; that of the cache that the model was trained on.")
    ] = 96,
) -> None:
    """Draw phantoms as PNG films with a manifest: input for a model, or for a cache, which needs ten women.

      cgn films drawn --pairs 12

      cgn predict drawn/phantom-7-00001-L.png drawn/phantom-7-00001-R.png --side L

      cgn cache manifest --file drawn/films.csv --name drawn --size 96

    Prints the path of the manifest.
    """
    from cgn.data.datasets.phantom import Options
    from cgn.data.phantom_films import write_films

    typer.echo(write_films(folder, Options(pairs=pairs, seed=seed), size))


@app.command()
def whose(
    pseudonyms: Annotated[list[str], typer.Argument(metavar="PSEUDONYM...", help="Names as in a cache.")],
    raw: Annotated[Path, typer.Option(help="Folder of the raw files.")],
) -> None:
    """Print the raw files of pseudonyms. Needs the key that made them; nothing is logged or stored.

    Example: cgn whose film-3f9a0c5d1e7b2846 --raw /data/inbreast
    """
    from cgn.data.identity.pseudonym import open_pseudonyms
    from cgn.data.identity.reidentify import find_files

    paths = find_files(pseudonyms, raw, open_pseudonyms())
    for pseudonym in pseudonyms:
        for path in paths[pseudonym]:
            typer.echo(f"{pseudonym}: {path}")
    if unknown := [pseudonym for pseudonym in pseudonyms if not paths[pseudonym]]:
        raise DataError(f"no file in {raw} has the pseudonym {', '.join(unknown)} under this key")


CACHE_OPTIONS = (
    ("size", 224, Annotated[int, typer.Option(help="Side of the cached images in pixels.")]),
    (
        "background",
        "keep",
        Annotated[str, typer.Option(help="keep, or mask everything outside the breast.")],
    ),
    (
        "folds",
        5,
        Annotated[int, typer.Option(help="Number of folds, grouped by patient and stratified.")],
    ),
    (
        "splits",
        None,
        Annotated[
            str | None,
            typer.Option(help="One division train:val:test in place of folds, e.g. 8:1:1."),
        ],
    ),
    ("split_seed", 0, Annotated[int, typer.Option(help="Seed of the folds.")]),
    (
        "out",
        None,
        Annotated[
            Path | None,
            typer.Option(help="The cache's folder. Default: one in the store, named by its content."),
        ],
    ),
    ("store_path", DEFAULT_STORE, StoreAt),
)
"""Options that all datasets share: name, default, annotation."""


def _cache_command(dataset: str) -> Callable[..., None]:
    from rich.progress import Progress

    from cgn.data import datasets
    from cgn.data.breast import Preprocessing
    from cgn.data.cache import CacheReport, write_cache
    from cgn.data.folds import SplitPlan
    from cgn_platform.console.live import make_console

    options = datasets.load(dataset).Options

    def command(**values: Any) -> None:
        dataset_options = options.of({name: values.pop(name) for name in options.model_fields})
        preprocessing = Preprocessing(values["size"], values["background"])
        splits = SplitPlan(values["folds"], _parts(values["splits"]), values["split_seed"])
        console = make_console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"preparing {dataset}", total=None)
            report: CacheReport = write_cache(
                dataset,
                dataset_options,
                preprocessing,
                splits,
                out=values["out"],
                caches=Store(values["store_path"]).caches,
                progress=lambda done, n: bar.update(task, completed=done, total=n),
            )
        _print_report(report)

    # The dataset's own options first, then those that all datasets share.
    common = datasets.DatasetOptions.model_fields
    of_dataset = [*_parameters(options), *(_parameter(*item) for item in common.items())]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in CACHE_OPTIONS
    ]
    command.__signature__ = inspect.Signature(of_dataset + shared)  # type: ignore[attr-defined]
    command.__doc__ = (
        f"{inspect.getdoc(options)}\n\nIf nothing has changed since an earlier call, no film is read."
    )
    return command


def _bilateral_command(dataset: str) -> Callable[..., None]:
    from cgn.data import datasets

    options = datasets.load(dataset).Options

    def command(size: int, edits: list[str] | None, **values: Any) -> None:
        from cgn import measure
        from cgn.config import Config
        from cgn_platform.console.live import make_console
        from cgn_platform.console.tables import bilateral_table

        config = Config().edit(**edits_of(edits))
        announce(f"reading all healthy and unhealthy pairs of {dataset} ...")
        trunk = measure.trunk(config.backbone, config.backbone_weights, config.seed)
        features = f"{config.backbone}, weights {config.backbone_weights}, seed {config.seed}"
        tests, rejected = measure.symmetry_test(
            dataset, options.of(values), size, {"grey values": measure.grey_cells, features: trunk}
        )
        for pair in rejected:
            typer.echo(f"left out: {pair}")
        make_console().print(bilateral_table(tests))

    of_dataset = _parameters(options)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("size", 224, Annotated[int, typer.Option(help="Side of the prepared images in pixels.")]),
            ("edits", None, Edits),
        )
    ]
    command.__signature__ = inspect.Signature(of_dataset + shared)  # type: ignore[attr-defined]
    command.__doc__ = (
        "Test Eq. 15 by grey values and by the features of a fixed backbone.\n\n"
        "Give it weights (--set backbone_weights=imagenet, or a file): untrained features show little.\n\n"
        f"{inspect.getdoc(options)}"
    )
    return command


def _parameters(options: Any) -> list[inspect.Parameter]:
    """Those of the dataset's own options."""
    from cgn.data.datasets import DatasetOptions

    common = DatasetOptions.model_fields
    return [_parameter(name, field) for name, field in options.model_fields.items() if name not in common]


def _parameter(name: str, field: Any) -> inspect.Parameter:
    option = typer.Option(help=field.description)
    default = inspect.Parameter.empty if field.is_required() else field.get_default()
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[field.annotation, option]
    )


def _parts(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    numbers = text.split(":")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"--splits must be train:val:test like 8:1:1 but got {text!r}")
    train, val, test = map(int, numbers)
    return train, val, test


def _print_report(report: Any) -> None:
    from cgn_platform.console.live import make_console

    for kind in ("missing", "notes"):
        for line in getattr(report, kind):
            typer.echo(f"{kind}: {line}")
    if report.rejected:
        make_console().print(_reasons(report.rejected))
    counts = ", ".join(f"{name} {count}" for name, count in report.counts.items())
    speed = f" ({report.images_per_second:.1f} images/s)" if report.fresh else ""
    typer.echo(f"{'written' if report.fresh else 'nothing to do'} in {report.seconds:.1f} s{speed}: {counts}")
    typer.echo(report.path)
    announce(f"next, look at some pairs: {shlex.join(['cgn', 'look', '--data', str(report.path)])}")
    if report.rejected:  # the cache is complete without them, but the exit code must say it
        films = sum(rejection.role == "healthy" for rejection in report.rejected)
        pairs = len(report.rejected) - films
        listed = [f"{n} {what}" for n, what in ((pairs, "pairs"), (films, "healthy films")) if n]
        raise DataError(
            f"{' and '.join(listed)} are not in the cache, {report.counts['cached']} pairs are: "
            f"{report.quarantine} lists them: replace these films and run this command again"
        )


def _reasons(rejected: Any) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("number", "reason", "for example", box=None)
    for reason, count in Counter(r.reason for r in rejected).most_common():
        example = str(next(r for r in rejected if r.reason == reason))
        table.add_row(str(count), reason, escape(example))
    return table
