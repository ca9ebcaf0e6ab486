"""Examples of our own: phrases written by hand, put together by small grammars. Imported by training.data alone."""
