"""What a study may say of each endpoint: "shown", "not shown" or "equivalent within the margin"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pvt_mtl_perception.study.statistics.paired import Equivalence, PairedComparison, equivalence_test, holm

Verdict = Literal["shown", "not shown", "equivalent within the margin"]


@dataclass(frozen=True)
class Endpoint:
    """A score that a hypothesis is about; higher is better.

    Attributes:
        name: as the sentence says it, "detection AP".
        margin: largest difference that does not matter, in the unit of the scores, fixed before the study.
        scale: what scores are multiplied by in sentences.
        unit: of the scaled scores.
    """

    name: str
    margin: float
    scale: float = 100.0
    unit: str = "points"


@dataclass(frozen=True)
class Claim:
    """The result for one endpoint.

    Attributes:
        endpoint: what was asked.
        comparison: the two arms over the seeds.
        equivalence: the test against the endpoint's margin.
        p_corrected: sign-flip p-value after Holm over the endpoints judged together.
        verdict: what may be said.
        text: one sentence that says it, with interval and p-value.
    """

    endpoint: Endpoint
    comparison: PairedComparison
    equivalence: Equivalence
    p_corrected: float
    verdict: Verdict
    text: str


def judge(
    comparisons: Mapping[Endpoint, PairedComparison],
    first: str = "MTL",
    second: str | Mapping[Endpoint, str] = "STL",
) -> list[Claim]:
    """The claims of one family of primary endpoints, in the order given.

    The sign-flip p-values of the family are corrected by Holm's method. Equivalence is not corrected: that
    the arms are equivalent in every endpoint needs every test to pass (an intersection-union test, Berger
    1982), and of single endpoints one says which were tested.

    Args:
        comparisons: the primary endpoints and no others.
        first: name of the first arm.
        second: name of the second arm, or of each endpoint's.
    """
    corrected = holm([comparison.p_sign_flip for comparison in comparisons.values()]).tolist()
    claims = []
    for (endpoint, comparison), p_corrected in zip(comparisons.items(), corrected, strict=True):
        equivalence = equivalence_test(comparison.differences, endpoint.margin, comparison.alpha)
        decision = verdict(comparison, p_corrected, equivalence)
        text = _sentence(
            endpoint,
            comparison,
            equivalence,
            p_corrected,
            decision,
            len(corrected),
            first,
            second if isinstance(second, str) else second[endpoint],
        )
        claims.append(Claim(endpoint, comparison, equivalence, p_corrected, decision, text))
    return claims


def verdict(comparison: PairedComparison, p_corrected: float, equivalence: Equivalence) -> Verdict:
    """What may be said of a difference, of either sign.

    Args:
        comparison: its interval has to exclude 0 for "shown"; its alpha is the level.
        p_corrected: has to be below alpha for "shown".
        equivalence: its p-value has to be below alpha for "equivalent within the margin", which is said only
            where no difference is shown.
    """
    if p_corrected < comparison.alpha and (comparison.low > 0 or comparison.high < 0):
        return "shown"
    return "equivalent within the margin" if equivalence.p_equivalent < comparison.alpha else "not shown"


def _sentence(
    endpoint: Endpoint,
    comparison: PairedComparison,
    equivalence: Equivalence,
    p_corrected: float,
    decision: Verdict,
    hypotheses: int,
    first: str,
    second: str,
) -> str:
    scale, unit = endpoint.scale, endpoint.unit
    margin = f"{endpoint.margin * scale:g}"
    margin += f" {unit.removesuffix('s') if margin == '1' else unit}"
    family = f" after Holm over {hypotheses}" if hypotheses > 1 else ""
    figures = (
        f"{comparison.mean * scale:+.2f} {unit}, {100 * (1 - comparison.alpha):g} % interval "
        f"{comparison.low * scale:+.2f} to {comparison.high * scale:+.2f}, "
        f"sign-flip p {_p(p_corrected)}{family}, {len(comparison.first)} seeds"
    )
    if decision == "equivalent within the margin":
        return (
            f"{first} and {second} are equivalent within the margin of {margin} in {endpoint.name} "
            f"({figures}; equivalence p {_p(equivalence.p_equivalent)})."
        )
    if decision == "shown":
        order = "higher" if comparison.mean > 0 else "lower"
        small = equivalence.p_equivalent < comparison.alpha
        beside = f"; a difference of {margin} or more is excluded, p {_p(equivalence.p_equivalent)}"
        return (
            f"{first} is shown to score {order} than {second} in {endpoint.name} "
            f"({figures}{beside if small else ''})."
        )
    no_loss = equivalence.p_non_inferior < comparison.alpha
    beside = f"; a loss of {margin} or more is excluded, p {_p(equivalence.p_non_inferior)}"
    return (
        f"A difference between {first} and {second} in {endpoint.name} is not shown "
        f"({figures}{beside if no_loss else ''})."
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
