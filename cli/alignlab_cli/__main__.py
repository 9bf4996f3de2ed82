"""``python -m alignlab_cli``."""

from __future__ import annotations

from alignlab_cli.main import main

if __name__ == "__main__":
    main()
