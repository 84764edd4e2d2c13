"""The room that opens pictures, slides and masks, and the only one: packing and inference see the
same pixels, since both read here.

A picture is what a viewer shows: turned as EXIF or TIFF say, transparency on white, white-is-zero
inverted, the largest image of several, and 8 bits a channel; stacks of depths, channels or stains
are refused. A mask is what its file stores, turned as its image is.

    open_slide.open_slide(path)     a SlideReader (reader.py): levels in pixels of the file
    open_slide.read_image(path)     the whole of an image
    slide.Slide(path, ...)          blocks of a slide at wanted microns, resampled by area
    label_file.read_mask(...)       class ids; also read_numbers, read_stored
    find_images.find_images(...)    the images of a folder; is_slide, is_result
    microns.choose_mpp(...)         who is believed about the size of a pixel

The readers: openslide_file.py (vendors' formats), tiff_file.py (tiff_layout.py finds the picture
among the pages, tiff_tiles.py decodes tiles, tiff_pages.py checks the chain of pages) and
image_file.py (Pillow); as_shown.py turns pixels and lays them on white, resample.py shrinks them.
Whatever a decoder raises becomes a UserError that names the file and, within a slide, the place.
"""
