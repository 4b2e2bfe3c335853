"""One architecture per file, its configuration beside it; parameter names are ours."""
