"""The tool loop: what a run is, which calls it may make, how each is saved. Nothing in here knows who asks."""
