"""Speed, as ratios against a peer in one run; never part of the tests."""
