"""Where a dataset's rows come from: the archive and its row, as people count them."""

from dataclasses import dataclass
from pathlib import Path

from jobs import segments
from jobs.dataset import Manifest, Split
from jobs.pictures import PictureNames


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row of an archive. `role`: train or test. `tag`: of a tagged training pair, else empty. `row`: from 0.

    `archive`: the file's name. `picture`: the path of the picture that the image was made of; empty if it is not known.
    """

    role: str
    tag: str
    row: int
    archive: str
    picture: str = ""

    def __str__(self) -> str:
        """Return the place in a few words, as under a picture."""
        picture = f" · {self.picture}" if self.picture else ""
        return f"{self.role}{f' {self.tag}' if self.tag else ''} {self.row:,}{picture}"


class Places:
    """The places of a dataset's rows."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._segments = {each.number: each for each in segments.read_segments(directory)}
        # `prepare` records if it made the test split of training rows, as there is no test archive.
        self._makes_test = "test_from" in manifest.options
        self._sources = manifest.sources
        self.pictures = PictureNames(directory, manifest.options)

    def of(self, split: Split, index: int) -> Place:
        """Return the place of a row with this `index`."""
        if split == "test" and not self._makes_test:
            return self._place("test", "", index)
        if not self._segments:
            return self._place("train", "", index)
        info = self._segments[segments.segment_of(index)]
        return self._place("train", info.tag, segments.archive_row(index, [info])[1])

    def _place(self, role: str, tag: str, row: int) -> Place:
        plain, tagged = f"{role}_images", segments.key(f"{role}_images", tag)
        key = plain if plain in self._sources else tagged
        name = self._sources[key].name if key in self._sources else role
        return Place(role=role, tag=tag, row=row, archive=name, picture=self.pictures.of(key, row))
