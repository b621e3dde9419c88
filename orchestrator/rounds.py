"""What is run next: everything at once, or what Optuna draws by what was recorded so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.config import SweepConfig
from orchestrator.leases import Leases
from orchestrator.ledger import Ledger
from orchestrator.plan import Grid, Unit, enumerate_grid, plan_units
from orchestrator.search import OptunaSearch
from orchestrator.space import draw_configurations, outline_configurations
from trainables.configuration import Configuration
from trainables.types import Setting

ROUND = 8
"""Configurations of a setting that Optuna draws at once: more keep workers busy, fewer are drawn better."""


def make_grid(config: SweepConfig) -> Grid:
    """The configurations of a sweep; with Optuna, those that show everything its draws can need.

    Raises:
        TwofoldError: a value out of range, or nothing left to run.
    """
    if config.search == "grid":
        return enumerate_grid(config)
    return draw_configurations(config) if config.search == "random" else outline_configurations(config)


class Rounds:
    """The units of a sweep, as far as they are known.

    Args:
        config: the sweep.
        grid: its configurations.
        settings: its settings.
        fingerprints: domain name -> hash of its images.
        ledger: where records are.

    Attributes:
        units: planned so far; all of them, unless Optuna draws.
    """

    def __init__(
        self,
        config: SweepConfig,
        grid: Grid,
        settings: Sequence[Setting],
        fingerprints: Mapping[str, str],
        ledger: Ledger,
    ) -> None:
        self._config = config
        self._settings = settings
        self._fingerprints = fingerprints
        self._ledger = ledger
        self._search: OptunaSearch | None = None
        self._told: set[str] = set()
        if config.search == "optuna":
            self._search = OptunaSearch(config, config.folder / "optuna.db")
            self.units = [unit for s in settings for unit in self._plan(s, self._search.asked(s.key))]
        else:
            self.units = plan_units(config, grid.configurations, settings, fingerprints)

    @property
    def most(self) -> int:
        """How many units there can be in the end."""
        if self._search is None:
            return len(self.units)
        return len(self._settings) * len(set(self._config.seeds)) * (self._config.samples or 1)

    def missing(self) -> list[Unit]:
        """Planned units that have no record."""
        states = self._ledger.states(unit.key for unit in self.units)
        return [unit for unit in self.units if unit.key not in states]

    def expected(self) -> list[list[Unit]]:
        """Units that are left, those of each run of Tune together.

        What Optuna has not drawn yet is stood in for by a random draw from the same space.
        """
        rounds = [self.missing()]
        if self._search is not None:
            drawn = draw_configurations(self._config).configurations
            open_ = {setting.key: drawn[len(self._search.asked(setting.key)) :] for setting in self._settings}
            for start in range(0, max(map(len, open_.values())), ROUND):
                rounds.append(
                    [
                        unit
                        for setting in self._settings
                        for unit in self._plan(setting, open_[setting.key][start : start + ROUND])
                    ]
                )
        return [units for units in rounds if units]

    def next(self, leases: Leases) -> list[Unit]:
        """Units to run now, none of them recorded; none where the sweep is complete.

        Args:
            leases: of the driver; two that draw at the same time would draw the same.
        """
        if self._search is None:
            return self.missing()
        with leases.exclusive("search"):
            self._tell(self._search)
            asked = [
                unit
                for setting in self._settings
                for unit in self._plan(setting, self._search.ask(setting.key, ROUND))
            ]
        known = {unit.key for unit in self.units}
        self.units.extend(unit for unit in asked if unit.key not in known)
        return self.missing()

    def _tell(self, search: OptunaSearch) -> None:
        new = [unit.key for unit in self.units if unit.key not in self._told]
        records = [record for key in new if (record := self._ledger.read(key)) is not None]
        search.tell(records)
        self._told.update(record.key for record in records)

    def _plan(self, setting: Setting, configurations: Sequence[Configuration]) -> list[Unit]:
        return plan_units(self._config, configurations, [setting], self._fingerprints)
