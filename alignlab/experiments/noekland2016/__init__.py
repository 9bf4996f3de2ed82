"""Nøkland 2016: direct feedback alignment."""
