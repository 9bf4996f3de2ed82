"""Keep what runs came to, and write the page: ``python -m tests.seeds --help``."""

from __future__ import annotations

from pathlib import Path

import click

from alignlab.experiments._catalogue import catalogue
from alignlab.experiments._kept import gathered, kept, kept_text
from tests.seeds.page import page

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "data" / "reproduced.json"
PAGE = ROOT / "docs" / "seeds.md"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--write", is_flag=True, help="Write data/reproduced.json and docs/seeds.md.")
def main(folders: tuple[Path, ...], write: bool) -> None:
    """Add the outcomes in FOLDERS, left by alignlab reproduce, to the kept ones.

    Without --write the page is printed. What is kept of claims that are gone is left out.
    """
    known = {entry.key for entry in catalogue()}
    outcomes = {
        place: outcome
        for place, outcome in gathered(folders, kept(KEPT)).items()
        if outcome.key in known
    }
    text = page(outcomes)
    if not write:
        click.echo(text)
        return
    KEPT.write_text(kept_text(outcomes), encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")
    click.echo(f"{KEPT}\n{PAGE}")


if __name__ == "__main__":
    main()
