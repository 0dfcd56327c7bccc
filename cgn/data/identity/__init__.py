"""Identities of patients, studies and films: replaced by pseudonyms, resolved again with the key.

    pseudonym     `open_pseudonyms`, `Pseudonyms`: keyed hashes
    reidentify    `find_files`: the raw files behind a pseudonym

This package imports nothing by itself.
"""
