"""Measures of images, sets of images and codes. A number's name states what it is measured with."""
