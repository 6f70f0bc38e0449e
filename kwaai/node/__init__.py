"""The services of a running node: where models, inference and, later, the network meet.

The API and the command line call these; nothing here knows of HTTP or of a terminal.
"""
