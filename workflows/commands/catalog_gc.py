"""`nwc catalog gc`: clear up what killed and superseded runs left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nwc_workflows.commands.catalog_options import open_catalog
from nwc_workflows.console import Output, with_output
from nwc_workflows.wording import bytes_text, count_text, name_text

if TYPE_CHECKING:
    from nwc_workflows.catalog.rubbish import Rubbish

_HOUR = 3600.0


@click.command()
@click.argument("catalog", metavar="CATALOG.yaml|URI")
@click.option("--delete", "really", is_flag=True, help="Delete it; without this only say what there is.")
@click.option(
    "--older-than",
    type=click.FloatRange(0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="Leave alone every place where something was written since.",
)
@with_output
def gc(output: Output, catalog: str, really: bool, older_than: float) -> None:
    """Find what killed and superseded runs left behind: below the results of a file, or below any place.

    Parts of unfinished artifacts, payloads that no manifest names, uploads that nobody completes. Never what an artifact
    needs, and nothing that nwc did not write.
    """
    from nwc_workflows.catalog.collect import delete, find

    root, _, _ = open_catalog(catalog, with_members=False)
    seconds = older_than * _HOUR
    found = find(root, seconds)
    for place in found.kept:
        output.note(f"left alone: {name_text(place.place or root.uri)}: {place.reason}")
    gone: tuple[Rubbish, ...] = ()
    if really and found.rubbish:
        with output.progress(found.nbytes, "delete") as progress:
            gone = delete(root, found, seconds, progress.advance)
    places = gone if really else found.rubbish
    objects, uploads = sum(len(p.objects) for p in places), sum(len(p.uploads) for p in places)
    nbytes = sum(p.nbytes for p in places)
    output.table(
        ["place", "artifact", "objects", "uploads", "bytes"],
        [
            [
                name_text(p.place or "."),
                "done" if p.committed else "unfinished",
                len(p.objects),
                len(p.uploads),
                p.nbytes,
            ]
            for p in places
        ],
    )
    output.result(
        {
            "root": root.uri,
            "deleted": really,
            "objects": objects,
            "uploads": uploads,
            "bytes": nbytes,
            "places": [
                {
                    "place": p.place,
                    "committed": p.committed,
                    "objects": [info.key for info in p.objects],
                    "uploads": [upload.key for upload in p.uploads],
                    "bytes": p.nbytes,
                }
                for p in places
            ],
            "left_alone": [{"place": p.place, "reason": p.reason} for p in found.kept],
        },
        f"{root.uri}: {count_text(objects, 'object')} ({bytes_text(nbytes)}) and {uploads} unfinished uploads "
        + ("deleted" if really else "can be deleted: --delete does it"),
    )
