"""A learning rule of one's own: the delta rule on pairs of RRAM cells, trained as all rules are, written into 32 levels.

What a rule must have is said by `memprop.learn.rule.Rule`; batches, rates, write-back and checkpoints come from `train_rule`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

import memprop

WINDOW = memprop.ConductanceRange()
UNIT = WINDOW.span / 4
"""Conductance in S of a weight of 1."""


class DeltaRule:
    """One crossbar ``[pixels, classes]``: each pair moves by its input times the error of its column."""

    name = "delta rule"
    needs = memprop.Needs(1, "none")
    identity: Mapping[str, float] = {"unit": UNIT}

    def __init__(self, pixels: int, classes: int) -> None:
        self.sizes = pixels, classes
        self.conductances = [torch.zeros(pixels, classes, dtype=torch.float64)]

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write signed conductances in S."""
        self.conductances = list(conductances)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return column currents in units of a weight of 1."""
        return inputs.double() @ self.conductances[0] / UNIT

    def learn(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> memprop.Learned:  # noqa: ARG002
        """Return input times error, per siemens."""
        outputs = self.outputs(inputs)
        error = torch.softmax(outputs, 1) - functional.one_hot(labels, self.sizes[1])
        loss = float(functional.cross_entropy(outputs, labels))
        return memprop.Learned(loss, outputs, (inputs.double().T @ error / (UNIT * len(inputs)),))


def main(epochs: int = 20) -> float:
    """Train on 8x8 digits and return the share of test samples that are right."""
    data = memprop.load("digits")
    rule = DeltaRule(data.rows, data.classes)
    config = memprop.RuleConfig(epochs, 32, (0.5 * UNIT**2,), optimizer="sgd", decay=0.9)
    memprop.train_rule(rule, data, config, memprop.WriteBack(WINDOW, levels=32, signed=True))
    return memprop.rule_accuracy(rule, data)


if __name__ == "__main__":
    print(f"{100 * main():.1f} % of the test samples")
