"""The engine: llama.cpp slices in worker processes, sessions, sampling, chat templates.

Knows nothing of the store, of the models' files on disk beyond a path, or of the network.
"""
