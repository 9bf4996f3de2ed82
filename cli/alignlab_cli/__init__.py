"""The command line of alignlab; the library does the work."""
