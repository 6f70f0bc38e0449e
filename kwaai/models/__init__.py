"""The model store: GGUF files, slices of them, manifests by content, downloads. Runs no model."""
