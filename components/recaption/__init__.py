"""The stage recaption: write more captions for the images of download."""
