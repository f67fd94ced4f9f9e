"""The folder of a run: begun, resumed, branched, kept small."""
