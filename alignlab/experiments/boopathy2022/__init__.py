"""Boopathy & Fiete 2022: alignment with the initial network (Align rules)."""
