"""README.md as PyPI can show it: links and pictures that are relative lead nowhere there.

AVFLOW_SOURCE_URL: where the repository's files of this version are read, such as
https://github.com/OWNER/avflow/blob/v0.2.0. Links then lead there, pictures are fetched from there, and notebooks open
in Colab. Without it links become plain text and pictures are left out.
"""

import re

RELATIVE = r"\((?!\w+:|#)([^()\s]+)\)"
PICTURE = re.compile(rf"!\[([^\]]*)\]{RELATIVE}")
GITHUB, COLAB = "https://github.com/", "https://colab.research.google.com/github/"
PAPERS = {
    "Study of audio-visual flow": "https://arxiv.org/abs/2606.10147",
    "Qwen2.5-Omni": "https://arxiv.org/abs/2503.20215",
    "video-SALMONN 2": "https://arxiv.org/abs/2506.15220",
}
LINK = re.compile(rf"(?<!!)\[([^\]]+)\]{RELATIVE}")


def page(readme: str, source_url: str = "") -> str:
    """The text for PyPI. readme: Markdown. source_url: as AVFLOW_SOURCE_URL."""
    url = source_url.rstrip("/")
    if not url:
        return LINK.sub(r"\1", PICTURE.sub("", readme))
    text = LINK.sub(rf"[\1]({url}/\2)", PICTURE.sub(rf"![\1]({url}/\2?raw=true)", readme))
    return re.sub(rf"\({re.escape(GITHUB)}([^()\s]+\.ipynb)\)", rf"({COLAB}\1)", text)


def urls(source_url: str = "") -> dict[str, str]:
    """Project-URLs: papers, and where AVFLOW_SOURCE_URL is set the repository, its pages and its list of issues."""
    url = source_url.rstrip("/")
    if not url:
        return dict(PAPERS)
    repository = url.split("/blob/")[0]
    pages = {"Documentation": f"{url}/docs/index.md", "Changelog": f"{url}/CHANGELOG.md"}
    return {"Source": repository, **pages, "Issues": f"{repository}/issues", **PAPERS}
