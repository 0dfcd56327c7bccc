"""Sec. IV-A. From films to pairs of prepared images: data sets, breast region, cache and folds.

    datasets/         one module a data set: which films make a pair, and their labels
    reading/          films in files: DICOM, PNG, PGM, TIFF; processes with limits
    identity/         pseudonyms in place of patients, studies and films, and the way back
    records           one pair and its films, before preparation
    breast            one film, from stored values to an 8-bit image of the breast
    preparation       the films of many pairs, from stored values to 8-bit images
    cache             prepared pairs in a folder: written once, checked when opened
    folds             which pairs train, validate and test
    pairs             what training reads: prepared pairs in memory
    contact_sheet, phantom_films    pictures of cached pairs; phantoms as files

Modules in this list import from modules below them or from `pairs`, `boxes` and `pairing`, never the other
way; `cache` and the last line stand above `datasets`.
"""
