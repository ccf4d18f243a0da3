"""Fused operations for training on a CPU: fewer passes over memory than one operation after another takes."""
