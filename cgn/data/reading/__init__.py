"""Films in files: from a path to stored pixels, one typed error for all that can be wrong with a file.

    dicom     `read`, `read_header`: single-frame DICOM mammograms
    grey      `grey_values`, `in_one_range`: what stored values mean, and one range for the films of a pair
    raster    `read`: PNG, PGM and TIFF
    films     `read_pair` for films of a data set, `open_pair` for a pair to predict
    workers   `Pool`: processes with limits on memory and time, for files that are not trusted

This package imports nothing by itself.
"""
