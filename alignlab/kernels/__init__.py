"""Tensor formulas: tensors in, tensors out, batch axes free."""
