"""The network: libp2p for finding and control, encrypted links for tensors."""
