"""Write the README's table of results anew from `evals/results`.

The table stands between two comments, `<!-- results -->` and `<!-- /results -->`; nothing else is touched.

    python -m evals.readme_table
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from evals.common import RESULTS, ROOT
from evals.quoted import summary
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import atomic_path

README = ROOT / "README.md"
SECTION = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def with_table(text: str, table: str) -> str:
    """The text of the README with another table.

    Raises:
        GmaeToolsError: there is not exactly one place for it.
    """
    if len(SECTION.findall(text)) != 1:
        raise GmaeToolsError("the README needs one pair of comments, <!-- results --> and <!-- /results -->")
    return SECTION.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", text)


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the tables.")
@click.option("--readme", type=click.Path(path_type=Path), default=README, help="The file to change.")
def main(results: Path, readme: Path) -> None:
    """Write the README's table of results anew."""
    text = with_table(readme.read_text(encoding="utf-8"), summary(results))
    with atomic_path(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    click.echo(readme)


if __name__ == "__main__":
    main()
