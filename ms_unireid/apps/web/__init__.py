"""The search page: a web page to search an index of photos."""
