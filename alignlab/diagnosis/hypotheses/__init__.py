"""Possible causes of a weak learning signal, one file each."""
