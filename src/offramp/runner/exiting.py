"""What text models whose rows may leave early have in common: the criterion, and its threshold."""

from __future__ import annotations

from dataclasses import replace

from offramp.errors import ConfigError
from offramp.exits.calibration.drift import ExitWatch
from offramp.exits.container import exits_of, task_of
from offramp.exits.criteria import Criterion, Entropy, check_criterion
from offramp.models.base import PretrainedModel
from offramp.runner.peeks import LeaveRates
from offramp.runner.run import Runner
from offramp.runner.text_model import TextModel
from offramp.text.tokenizer import Tokenizer


class ExitingModel(TextModel):
    """A model with exits, or one that may have some, and its tokenizer.

    Without exits all rows pass all layers.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        self._rates = LeaveRates()
        self.watch: ExitWatch | None = None
        """Counts where rows leave, and warns where that is not as it was in calibration."""

    def runner(self, criterion: Criterion | None = None) -> Runner:
        """What a call runs its rows with; `criterion` is its own, if it has one."""
        watch = self.watch if criterion is None else None  # it is of the model's own
        return Runner(self.model, criterion=criterion, rates=self._rates, watch=watch)

    @property
    def criterion(self) -> Criterion:
        """What decides which rows leave; replace it at any time, for calls that begin later.

        ConfigError for one that does not fit the model's task, and for a model without exits.
        """
        return exits_of(self.model).criterion

    @criterion.setter
    def criterion(self, value: Criterion) -> None:
        check_criterion(value).check(task_of(self.model))
        exits_of(self.model).criterion = value


class ThresholdModel(ExitingModel):
    """One that answers with classes, and so has entropies with a threshold."""

    @property
    def threshold(self) -> float:
        """The entropy (nats) below which a row leaves after the first layer; its growth stays.

        Assign to it to trade accuracy for speed.
        """
        return self._entropy.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.criterion = replace(self._entropy, threshold=value)

    @property
    def growth(self) -> float:
        """By what the threshold is multiplied from layer to layer."""
        return self._entropy.growth

    def _with_threshold(self, threshold: float | None) -> Criterion | None:
        """The criterion of a call with a threshold of its own; None for the model's."""
        return None if threshold is None else replace(self._entropy, threshold=threshold)

    @property
    def _entropy(self) -> Entropy:
        criterion = self.criterion  # once: another thread may replace it
        if not isinstance(criterion, Entropy):
            raise ConfigError(f"{criterion} has no threshold of an entropy; set `criterion`.")
        return criterion
