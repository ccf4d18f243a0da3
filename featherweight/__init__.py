"""Featherweight: train, check, explain and ship small image classifiers under explicit design rules."""
