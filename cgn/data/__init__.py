"""Sec. IV-A. From films to pairs of prepared images: data sets, breast region, cache and folds.

From top to bottom; a module imports only from lines below its own:

    phantom_films      phantoms as files
    cache              prepared pairs in a folder: written once, verified when opened (`cache_files`)
    datasets/          one module a data set: which films make a pair, and their labels
    identity/          pseudonyms for patients, studies and films, and the way back
    preparation        the films of many pairs become 8-bit images of the breast
    reading/           films in files: DICOM, PNG, PGM, TIFF; processes with limits
    records            one pair and its films before preparation
    pairing            which film is compared with which
    breast             one film becomes an 8-bit image of the breast
    contact_sheet      cached pairs as one picture
    folds              which pairs train, validate and test
    pairs              what training reads: prepared pairs in memory
    boxes              boxes around lesions
"""
