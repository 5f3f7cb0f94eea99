"""Classes of image files, as a table and as a page."""
