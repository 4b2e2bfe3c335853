"""Files that are broken or mean harm, for every reader.

Each must be refused by one CheckpointError that names it, or be read as what it says,
in little time and memory; see examine.py. Made anew for each test. To have them:

    cd tests && python -m hostile FOLDER
"""
