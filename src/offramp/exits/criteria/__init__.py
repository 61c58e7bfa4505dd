"""When a row may leave: criteria over a ramp's answer, vectorised over rows."""

from offramp.exits.criteria.base import (
    Answer,
    Criterion,
    Decision,
    RowsOf,
    ask_rows,
    begun,
    check_criterion,
    criterion_from_dict,
)
from offramp.exits.criteria.combined import AllOf, AnyOf
from offramp.exits.criteria.confidence import (
    Energy,
    Entropy,
    LayerEntropy,
    Margin,
    MaxProbability,
    NormalizedEntropy,
    logits_entropy,
)
from offramp.exits.criteria.learned import LearnedToExit
from offramp.exits.criteria.patience import (
    ConfidentPatience,
    JensenShannonPatience,
    Patience,
    RegressionPatience,
    Voting,
)
from offramp.exits.criteria.plain import FixedDepth, MinDepth, RandomExit
from offramp.exits.criteria.task import Task
from offramp.exits.criteria.units import EachLabel, EachToken, by_unit

__all__ = [
    "AllOf",
    "Answer",
    "AnyOf",
    "ConfidentPatience",
    "Criterion",
    "Decision",
    "EachLabel",
    "EachToken",
    "Energy",
    "Entropy",
    "FixedDepth",
    "JensenShannonPatience",
    "LayerEntropy",
    "LearnedToExit",
    "Margin",
    "MaxProbability",
    "MinDepth",
    "NormalizedEntropy",
    "Patience",
    "RandomExit",
    "RegressionPatience",
    "RowsOf",
    "Task",
    "Voting",
    "ask_rows",
    "begun",
    "by_unit",
    "check_criterion",
    "criterion_from_dict",
    "logits_entropy",
]
