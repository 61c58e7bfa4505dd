"""What some independent rows say of a mean: p-values that are valid for any number of rows.

Losses are of rows that were drawn independently from those the mean is of; a p-value is for the
hypothesis that the mean is `risk` or more. Under it the chance of a p-value of d or less is at most
d, for each d.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def binomial_p_value(errors: int, n_rows: int, risk: float) -> float:
    """P(Bin(n, risk) <= errors): of losses that are 0 or 1, from how many of them are 1.

    Exact where the mean is `risk` itself. Of 1,000 rows and a risk of .01 four errors give .0287
    and five .0661.
    """
    if errors >= n_rows:
        return 1.0
    if risk <= 0 or risk >= 1:
        return 1.0 if risk <= 0 else 0.0
    k = torch.arange(errors + 1, dtype=torch.float64)
    n = torch.tensor(n_rows, dtype=torch.float64)
    ways = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    terms = ways + k * math.log(risk) + (n - k) * math.log1p(-risk)
    return min(1.0, terms.logsumexp(0).exp().item())


def hoeffding_bentkus_p_value(total: float, n_rows: int, risk: float) -> float:
    """Of losses from 0 to 1, from their sum.

    The lesser of Hoeffding's bound by relative entropy, exp(-n h(mean, risk)), and Bentkus',
    e P(Bin(n, risk) <= ceil(sum)). Bates et al. 2021, "Distribution-Free, Risk-Controlling
    Prediction Sets", section 3.1.
    """
    mean = total / n_rows
    if mean >= risk:
        return 1.0
    if risk >= 1:
        return 0.0
    hoeffding = math.exp(-n_rows * _relative_entropy(mean, risk))
    rounded = math.ceil(total - 1e-9)  # a sum of floats may be just above a whole number
    return min(1.0, hoeffding, math.e * binomial_p_value(rounded, n_rows, risk))


def betting_p_value(
    losses_R: Tensor, risk: float, level: float = 0.05, *, least_risk: float = 0.0
) -> float:
    """Of losses from 0 to 1, in an order that has nothing to do with them.

    The inverse of the most that a gambler ever has who begins with 1 and bets on each row in turn
    that its loss is below `risk`: while the mean is `risk` or more, the chance that it ever reaches
    1/d is at most d (Ville's inequality). How much is bet follows the spread of the losses so far,
    so rare losses tell much. Waudby-Smith and Ramdas 2024, "Estimating means of bounded random
    variables by betting", for a test at `level`, valid at any. No bet is more than three quarters
    of what may be bet against `least_risk`, which no `risk` that is asked about is below: all of it
    would be lost with one row.
    """
    losses_R = losses_R.double()
    bets_R = _bets(losses_R, level).clamp(max=0.75 / (1 - least_risk))
    won = (bets_R * (risk - losses_R)).log1p().cumsum(0).max().item()
    return min(1.0, math.exp(-won))


def _bets(losses_R: Tensor, level: float) -> Tensor:
    """What is bet on each row, as known before it: less the more the losses so far differ."""
    n = len(losses_R)
    count_R = torch.arange(1, n + 1, dtype=torch.float64)
    mean_R = (0.5 + losses_R.cumsum(0)) / (1 + count_R)
    variance_R = (0.25 + (losses_R - mean_R).square().cumsum(0)) / (1 + count_R)
    before_R = torch.cat([variance_R.new_tensor([0.25]), variance_R[:-1]])
    return (-2 * math.log(level) / (n * before_R)).sqrt()


def _relative_entropy(mean: float, risk: float) -> float:
    """Of a coin with heads of probability `mean` to one of `risk`, in nats."""
    found = (1 - mean) * math.log((1 - mean) / (1 - risk))
    return found + (mean * math.log(mean / risk) if mean > 0 else 0.0)
