"""What a calibration has found so far, kept in a file where it is to survive the process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from bayesprof.inference.checkpoint import Checkpoint


class Tally:
    """Ranks by label, one for each simulation that gave draws; how often fits were flagged or gave none, by reason; and
    how many truths were `lost` to them.

    With a `checkpoint`, it goes on from what that holds.
    """

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.done = 0  # simulations, those without draws included
        self.ranks: list[dict[str, int]] = []
        self.flagged: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.lost = 0
        self._checkpoint = checkpoint
        self._saved = 0
        found = None if checkpoint is None else checkpoint.load()
        if found is not None:
            state, draws = found
            labels = sorted(state["labels"], key=state["labels"].__getitem__)
            self.done = self._saved = int(state["done"])
            self.ranks = [dict(zip(labels, row, strict=True)) for row in draws["ranks"][0].tolist()]
            self.flagged, self.missing = Counter(state["flagged"]), Counter(state["missing"])
            self.lost = int(state["lost"])

    def count(
        self,
        ranks: Mapping[str, int] | None,
        *,
        flagged: str | None = None,
        missing: str | None = None,
        lost: bool = False,
    ) -> None:
        """Take note of one more simulation, and save all of them from time to time."""
        if ranks is not None:
            self.ranks.append(dict(ranks))
        self.flagged.update([] if flagged is None else [flagged])
        self.missing.update([] if missing is None else [missing])
        self.lost += lost
        self.done += 1
        if self._checkpoint is not None and self._checkpoint.due():
            self.save()

    def columns(self) -> dict[str, np.ndarray]:
        """Ranks by label."""
        return {label: np.array([row[label] for row in self.ranks]) for label in self.ranks[0]}

    def save(self) -> None:
        """Save what there is, if there is anything new."""
        if self._checkpoint is None or self.done == self._saved:
            return
        labels = list(self.ranks[0]) if self.ranks else []
        state = {
            "done": self.done,
            "labels": {label: place for place, label in enumerate(labels)},
            "flagged": dict(self.flagged),
            "missing": dict(self.missing),
            "lost": self.lost,
        }
        table = np.array([[row[label] for label in labels] for row in self.ranks], dtype=np.int64)
        if self._checkpoint.save(state, {"ranks": table.reshape(1, len(self.ranks), len(labels))}):
            self._saved = self.done
