"""How `make docs` builds the site: the pages of this folder, and the API reference from the docstrings."""

import re

import avflow

project = "avflow"
author = copyright = "avflow contributors"
version = release = avflow.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"avflow {version}"
html_copy_source = False

# Pages: Markdown that reads the same on a repository's web page.
myst_heading_anchors = 4
OUTSIDE = {  # pages that stand elsewhere in the repository -> the page of the site that includes them
    "../CONTRIBUTING.md": "site/CONTRIBUTING.md",
    "../CHANGELOG.md": "site/CHANGELOG.md",
    "../avflow-models/avflow_models/tiny-omni/MODEL_CARD.md": "site/tiny-omni.md",
    "../avflow-models/avflow_models/tiny-salmonn/MODEL_CARD.md": "site/tiny-salmonn.md",
}

# Docstrings: single backquotes are code, sections are those that the docstrings use.
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "groupwise"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False  # what comes back is said in words, often of several things
napoleon_use_ivar = True
napoleon_custom_sections = [("What differs from a plain run", "params_style")]


def include_outside(app, docname, source):
    """Links to pages outside of this folder lead to the site's copies."""
    for there, here in OUTSIDE.items():
        source[0] = source[0].replace(f"]({there}", f"]({here}")


def once(app, what, name, obj, skip, options):
    """What `avflow` exports is described there, not again in the module that it comes from; no fields of tuples."""
    elsewhere = app.env.docname != "api/avflow" and any(obj is getattr(avflow, public) for public in avflow.__all__)
    return True if elsewhere or type(obj).__name__ == "_tuplegetter" else None


# Docstrings may say two short things in one line ("low: the least. high: the most."): here each gets its own.
NEXT = {
    "Args:": re.compile(r"(?<=[.;]) (?=[a-z_]\w*(?:, [a-z_]\w*)*: )"),
    "Attributes:": re.compile(r"(?<=[.;]) (?=[a-z_]\w*(?:, [a-z_]\w*)*: )"),
    "Raises:": re.compile(r"(?<=[.;]) (?=\w+Error(?:, \w+Error)*: )"),
}


def one_line_each(app, what, name, obj, options, lines):
    if what == "property":
        lines[0] = lines[0].replace(": ", " -- ", 1)  # napoleon takes what stands before a colon for the type
    out, section, indent = [], None, ""
    for line in lines:
        if line and not line[0].isspace():
            section = NEXT.get(line)
            indent = ""
        elif section and line.strip():
            indent = indent or re.match(r"\s*", line)[0]
            if line.strip().startswith("The others: "):  # no argument's name
                out.insert(out.index("Args:"), f"The other arguments: {line.split(': ', 1)[1]}")
                out.insert(out.index("Args:"), "")
                continue
            first, *more = section.split(line)
            for part in [first, *(indent + rest for rest in more)]:
                several = re.match(rf"{indent}([a-z_]\w*(?:, [a-z_]\w*)+): (.*)", part)
                if several and section is NEXT["Attributes:"]:  # napoleon takes lists of names in Args only
                    out += [f"{indent}{each}: {several[2]}" for each in several[1].split(", ")]
                else:
                    out.append(part)
            continue
        out.append(line)
    lines[:] = out


def setup(app):
    app.connect("source-read", include_outside)
    app.connect("autodoc-skip-member", once)
    app.connect("autodoc-process-docstring", one_line_each, priority=400)  # before napoleon reads the sections
