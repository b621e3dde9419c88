"""What a sweep found, for people: numbers in ``summary``, a terminal table, and one self-contained page.

Reads only what the chooser and the oracle wrote. It never opens a label itself.
"""
