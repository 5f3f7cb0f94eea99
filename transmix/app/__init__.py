"""The web app: two images, a box to drag, and what the label becomes by area and by attention."""
