"""Fakes and helpers for tests, shipped so that others can test against them too. Product code never
imports this.
"""
