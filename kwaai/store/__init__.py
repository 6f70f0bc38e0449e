"""This node's own files: where they are and who may read them. Models are `kwaai.models`."""
