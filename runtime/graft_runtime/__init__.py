"""
What every process of graft has, whatever it does: settings, logs, a life until SIGTERM, a health port, stores and proofs.

Each module stands for itself and brings its own libraries: import the one that is needed, and an image needs no more.
"""
