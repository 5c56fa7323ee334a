"""Dockerfiles: read on the client's machine, and turned into recipes.

    syntax       the text, its stages and flags
    words        variables and quotes
    accounts     who may fetch what from a registry
    context      the directory that COPY takes files from
    stages       one stage's instructions as steps
    remote       files that ADD names by their address
    start        what CMD, ENTRYPOINT and HEALTHCHECK come to
    translation  the whole file as a recipe

What Dockerfiles mean is BuildKit's to say; the parser is a port of its own. Nothing is left out in
silence that would make another file system of it: what is not supported is refused by its line.
"""
