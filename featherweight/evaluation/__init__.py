"""Measuring a trained network: the figures, one pass over all pictures, the protocol that guards the test pictures."""

from featherweight.evaluation.evaluate import Evaluation, evaluate
from featherweight.evaluation.protocol import HeldOutTest, ProtocolError, disjoint

__all__ = ["Evaluation", "HeldOutTest", "ProtocolError", "disjoint", "evaluate"]
