"""README.md as PyPI can show it: links and pictures that are relative lead nowhere there.

AVFLOW_SOURCE_URL: where the repository's files of this version are read, such as
https://github.com/OWNER/avflow/blob/v0.2.0. Links then lead there, pictures are fetched from there. Without it links
become plain text and pictures are left out.
"""

import re

RELATIVE = r"\((?!\w+:|#)([^()\s]+)\)"
PICTURE = re.compile(rf"!\[([^\]]*)\]{RELATIVE}")
LINK = re.compile(rf"(?<!!)\[([^\]]+)\]{RELATIVE}")


def page(readme: str, source_url: str = "") -> str:
    """The text for PyPI. readme: Markdown. source_url: as AVFLOW_SOURCE_URL."""
    url = source_url.rstrip("/")
    if not url:
        return LINK.sub(r"\1", PICTURE.sub("", readme))
    return LINK.sub(rf"[\1]({url}/\2)", PICTURE.sub(rf"![\1]({url}/\2?raw=true)", readme))
