"""How far this node trusts its peers: evidence in; scores, tiers and their reasons out. No I/O."""
