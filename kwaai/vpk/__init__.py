"""VPK: private knowledge, sealed before it leaves its owner, on disks whose owners cannot read it.

Bob owns keys and a compact index; eves host sealed objects. docs/vpk.md.
"""
