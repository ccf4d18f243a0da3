"""Measuring a trained network: the figures, one pass over all pictures, the protocol that guards the test pictures.

`shifts` measures on blurred, noisy, compressed and pale pictures; `tables` tells what was measured in the README.
"""

from featherweight.evaluation.evaluate import Evaluation, arithmetic, evaluate
from featherweight.evaluation.protocol import HeldOutTest, ProtocolError, disjoint

__all__ = ["Evaluation", "HeldOutTest", "ProtocolError", "arithmetic", "disjoint", "evaluate"]
