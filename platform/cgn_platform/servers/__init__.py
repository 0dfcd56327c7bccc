"""Processes that people start on a machine: `cgn up`, `cgn down` and `cgn doctor`.

Public: `up.up` and `down`, `doctor.examine`.
"""
