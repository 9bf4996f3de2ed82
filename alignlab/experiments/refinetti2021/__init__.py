"""Refinetti, d'Ascoli, Ohana & Goldt 2021: align, then memorise."""
