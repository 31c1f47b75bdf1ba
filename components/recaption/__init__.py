"""The stage recaption: more captions for the images that there are."""
