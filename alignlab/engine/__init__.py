"""The engine: one forward pass, true and approximate gradients, nothing touched."""
