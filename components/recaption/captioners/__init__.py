"""Whatever writes captions, behind one interface."""
