"""Launay et al. 2019: principled training of neural networks with direct feedback alignment."""
