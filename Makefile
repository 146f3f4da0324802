# make quickstart | test | bench | tables: each first sets up what a fresh Debian machine lacks.
