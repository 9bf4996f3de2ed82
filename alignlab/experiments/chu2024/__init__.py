"""Chu & Bacho 2024: why random feedback alignment algorithms align."""
