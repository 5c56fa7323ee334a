"""The code interpreter: a program that runs inside a sandbox and answers on its port 49999.

It is copied into the template `code-interpreter-v1` (see `atoll.templates.interpreter`) and started
there as the user `user`, with libraries of its own; nothing of the host's side imports it. The
protocol is that of E2B's code interpreter, as its released SDKs speak it:

`POST /execute` runs code and streams events, one JSON object per line; `/contexts` makes, lists,
restarts and removes contexts. A context is one Jupyter kernel with its state.
"""
