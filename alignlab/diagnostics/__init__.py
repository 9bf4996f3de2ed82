"""Diagnostics: from a snapshot to named numbers with their chance levels. One file each."""
