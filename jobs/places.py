"""Where a dataset's rows come from: the archive and its row, as people count them."""

from dataclasses import dataclass
from pathlib import Path

from jobs import segments
from jobs.dataset import Manifest, Split


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row of an archive. `role`: train or test. `tag`: of a tagged training pair, else empty. `row`: from 0.

    `archive`: the file's name.
    """

    role: str
    tag: str
    row: int
    archive: str

    def __str__(self) -> str:
        """Return the place in a few words, as under a picture."""
        return f"{self.role}{f' {self.tag}' if self.tag else ''} {self.row:,}"


class Places:
    """The places of a dataset's rows."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._segments = {each.number: each for each in segments.read_segments(directory)}
        # `prepare` records if it made the test split of training rows, as there is no test archive.
        self._makes_test = "test_from" in manifest.options
        self._sources = manifest.sources

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
        source = self._sources.get(plain) or self._sources.get(tagged)
        return Place(role=role, tag=tag, row=row, archive=source.name if source else role)
