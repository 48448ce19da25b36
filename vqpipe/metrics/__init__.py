"""Measures of images, sets of images and codes. Each number is printed under the name it has earned."""
