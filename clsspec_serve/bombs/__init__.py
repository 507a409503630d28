"""Files in which a few bytes make a decoder take any amount of time or memory, by format.

They are refused by their headers, before a decoder sees them.
"""
