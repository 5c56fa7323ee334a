"""The program that runs as the first process of every sandbox.

It is started by the interpreter of the private runtime directory (see `atoll.agent.runtime`), so it
may use nothing of the image, and imports as little of the standard library as it can: what is not
imported costs neither start time nor memory in each sandbox.
"""
