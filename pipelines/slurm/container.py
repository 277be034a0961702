"""What a site's container sees beside the work folder: the files that the config names, and temporary files."""

from collections.abc import Mapping
from pathlib import Path

from deploy.slurm.site import Site
from jobs.errors import InputError
from jobs.object_store import is_remote
from pipelines.config import Config

_BIND = "APPTAINER_BIND"  # apptainer(1): folders, separated by commas; a colon would begin another path for each


def folders(config: Config) -> list[Path]:
    """Return the folders of the files that a config names, sorted: the archives' and those of the lists of rows."""
    files = [*config.fetch.named_archives.values(), config.fetch.class_names, config.prepare.groups]
    parents = {Path(file).parent for file in (*files, config.prepare.exclude) if file}
    data = config.fetch.data
    return sorted(parents | ({Path(data)} if data and not is_remote(data) else set()))  # copied to --work


def require_visible(site: Site, work: Path, config: Config) -> None:
    """Raise InputError where a container would not see a folder: Apptainer splits its path."""
    for option, folder in [("--work", work), *(("--data", each) for each in folders(config))]:
        if site.container is not None and any(character in str(folder) for character in ",:"):
            raise InputError(
                f"{option} {folder}: found a comma or colon in its path, where Apptainer splits it, expected none; "
                f"fix: give another {option}, or a site without a container"
            )


def binds(site: Site, config: Config, scratch: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that shows these folders in the site's container; nothing without a container.

    `scratch`: the node's own disk, with the temporary files of all processes. `environment`: the job's, which may have
    more folders.
    """
    if site.container is None:
        return {}
    return {_BIND: ",".join(filter(None, [environment.get(_BIND), scratch, *map(str, folders(config))]))}
