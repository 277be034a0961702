"""What `idxtrain datasets` shows: the data sets of the catalog, and what a folder of archives holds."""

from pathlib import Path

from jobs.archive import ROLES
from jobs.errors import InputError
from jobs.fetch.catalog import CATALOG
from jobs.fetch.check import check
from jobs.fetch.class_names import names_text
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import DataSet
from jobs.fetch.describe import describe
from jobs.fetch.identify import identify
from jobs.fetch.locate import locate
from jobs.label_options import LabelOptions
from jobs.run_dir import Work
from jobs.text_table import text_table
from pipelines.config import data_set_name

_OFFLINE = "mnist"  # a package from PyPI contains it: see `jobs.fetch.offline`


def of_all(work: Path) -> list[str]:
    """Return a table of all data sets: name, classes, images, their size, and where they come from."""
    header = ("name", "classes", "training", "test", "image", "from")
    rows = [
        (name, len(known.class_names), *_sizes(known), _origin(known, Work(work)))
        for name, known in ((name, CATALOG[name]) for name in CATALOG)
    ]
    return text_table(header, rows, right=(1, 2, 3))


def of_one(name: str, work: Path) -> list[str]:
    """Return what is known of one data set, a fact per line; raise InputError for a name that is not known."""
    if name not in CATALOG:
        raise InputError(f"{name}: found no such data set, expected one of {', '.join(CATALOG)}; fix: correct the name")
    known = CATALOG[name]
    training, test, image = _sizes(known)
    facts = {
        "title": known.title,
        "images": f"{training} for training, {test} for testing, {image}",
        "classes": f"{len(known.class_names)}: {names_text(known.class_names)}",
        "stored": "upright" if known.orientation == "none" else f"not upright; {known.orientation} turns them so",
        "licence": known.licence,
        "source": known.source,
        "from": _origin(known, Work(work)),
        "mirrors": ", ".join(known.mirrors),
        "otherwise": known.how_to_get,
        "archives": ", ".join(archive.name for archive in known.archives.values()),
    }
    return [f"{fact:<10} {text}" for fact, text in facts.items() if text]


def of_folder(data: Path, name: str | None) -> list[str]:
    """Return what a folder of archives holds, an archive per line, and what is known of it. Raises InputError."""
    folder = data.expanduser().resolve()
    located = locate(FetchConfig(dataset=name or data_set_name(folder), data=str(folder)))
    checked = check(located, located.archives, LabelOptions(unseen="count"))
    identities = {key: known for key, path in located.archives.items() if (known := identify(path))}
    rows = [
        (key, located.archives[key].name, header, identities.get(key, "")) for key, header in checked.headers.items()
    ]
    description = describe(located, identities, checked.label_column)
    lines = text_table(("role", "file", "header", "known as"), rows)
    lines += [f"class names: {names_text(description.class_names)}"] if description.class_names else []
    lines += ["labels: one-hot, read as classes"] if description.one_hot else []
    lines += [f"orientation: {description.orientation}"] if description.orientation != "none" else []
    return lines


def _sizes(known: DataSet) -> tuple[str, str, str]:
    """Return the number of training and of test images, and the size of one."""
    shapes = [known.archives[role].shape if role in known.archives else () for role in ROLES]
    training, test = (f"{shape[0]:,}" if shape else "–" for shape in (shapes[0], shapes[2]))
    return training, test, " × ".join(map(str, (shapes[0] or shapes[2])[1:]))


def _origin(known: DataSet, work: Work) -> str:
    """Return where the archives come from: this machine, if they are here."""
    folder = work.archives / known.name
    names = [(archive.name, archive.gz_name) for archive in known.archives.values()]
    if all(any((folder / name).is_file() for name in pair) for pair in names):
        return f"here, in {folder}"
    if known.package and Path(known.package.folder).is_dir():
        return known.package.name
    if known.name == _OFFLINE:
        return "download, or a package from PyPI"
    return "download" if known.mirrors else "bring it with --data"
