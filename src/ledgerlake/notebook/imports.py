"""What takes longest of what a page imports, spared in the processes that make pages, and in no other."""

from __future__ import annotations

import importlib
import sys

_IRI_PARSER = "rfc3987_syntax"


def import_jsonschema() -> None:
    """The package jsonschema, without the parser it has for the format "iri" where it finds one.

    plotly shows figures by nbformat, which checks notebooks by jsonschema. To build that parser takes two
    seconds, more than all else that is imported for a page, and no notebook has such a field.
    """
    if "jsonschema" in sys.modules:
        return
    kept = sys.modules.get(_IRI_PARSER)
    sys.modules[_IRI_PARSER] = None  # type: ignore[assignment]  # means: it is not to be found
    try:
        importlib.import_module("jsonschema")
    finally:
        sys.modules.pop(_IRI_PARSER, None)
        if kept is not None:
            sys.modules[_IRI_PARSER] = kept
